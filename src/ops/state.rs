//! Small JSON files in which one tick leaves word for the next, below `<home>/state`. It owns that they are whole: a torn
//! or alien file is set aside, not trusted and not lost. It refuses to know what they say.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::platform::files;

/// The folder of all of them.
pub(crate) fn folder(home: &Path) -> PathBuf {
    home.join("state")
}

/// One such file.
#[derive(Debug, Clone)]
pub(crate) struct State {
    path: PathBuf,
}

impl State {
    /// The file `<home>/state/<name>.json`.
    pub(crate) fn of(home: &Path, name: &str) -> Self {
        Self { path: folder(home).join(format!("{name}.json")) }
    }

    /// What was left; the default when nothing was, or nothing that can be read.
    pub(crate) fn read<T: DeserializeOwned + Default>(&self) -> T {
        let Ok(text) = fs::read(&self.path) else { return T::default() };
        serde_json::from_slice(&text).unwrap_or_else(|_| {
            // Kept for whoever wants to know; that it cannot even be renamed is told when the new one is written.
            let _ = fs::rename(&self.path, self.path.with_extension("json.torn"));
            T::default()
        })
    }

    /// Leaves `value`, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be made or written to; the message names the file.
    pub(crate) fn write(&self, value: &impl Serialize) -> io::Result<()> {
        let bytes = serde_json::to_vec(value)?;
        files::keep(&self.path, &bytes, 0o600)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_found_and_a_torn_file_is_set_aside() {
        let home = tempfile::tempdir().unwrap();
        let state = State::of(home.path(), "x.last");
        assert!(state.read::<Vec<u32>>().is_empty());
        state.write(&[1, 2]).unwrap();
        assert_eq!(state.read::<Vec<u32>>(), [1, 2]);
        let path = home.path().join("state/x.last.json");
        fs::write(&path, "[1,").unwrap();
        assert!(state.read::<Vec<u32>>().is_empty());
        assert_eq!(fs::read(path.with_extension("json.torn")).unwrap(), b"[1,");
        state.write(&[3]).unwrap();
        assert_eq!(state.read::<Vec<u32>>(), [3]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("state"), "").unwrap();
        let error = State::of(home.path(), "x").write(&1).unwrap_err().to_string();
        assert!(error.contains("state/x.json"), "{error}");
    }
}
