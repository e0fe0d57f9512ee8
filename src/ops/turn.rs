//! One at a time: whoever loads or unloads the server (`install`, `fallback`, the guardian) takes its turn first, so that
//! none of them undoes what another has half done. A turn ends with its process, however that ends.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// The file that is locked, below the root. Nothing stands in it.
const FILE: &str = "install.lock";

/// The turn, until the file is dropped; `None` while another process has it.
///
/// # Errors
/// The file cannot be made or locked; the message names it.
pub(crate) fn take(home: &Path) -> io::Result<Option<File>> {
    let path = home.join(FILE);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(named)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(named(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_one_holders_until_it_is_dropped() {
        let home = tempfile::tempdir().unwrap();
        let turn = take(home.path()).unwrap();
        assert!(turn.is_some() && take(home.path()).unwrap().is_none());
        drop(turn);
        assert!(take(home.path()).unwrap().is_some());
        let error = take(&home.path().join("nowhere")).unwrap_err().to_string();
        assert!(error.contains("install.lock"), "{error}");
    }
}
