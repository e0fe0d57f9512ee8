//! Files that are there whole or not at all: written beside their place, flushed, then renamed or linked into it. It owns
//! modes from creation, so that a secret is never readable for a moment; it refuses to know what is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Replaces `path` by a file with these bytes and this mode. A crash leaves the old file or the new one.
///
/// # Errors
/// The folder cannot be written to. The old file is untouched then.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = write_beside(path, bytes, mode)?;
    fs::rename(&beside, path).inspect_err(|_| discard(&beside))?;
    flush_folder(path)
}

/// As [`replace`], in a folder that is made if it is missing.
///
/// # Errors
/// The folder cannot be made or written to. The old file is untouched then.
pub fn keep(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    replace(path, bytes, mode)
}

/// Makes `path` with these bytes and this mode; never replaces a file that is there.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when it is there; otherwise the folder cannot be written to.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = write_beside(path, bytes, mode)?;
    let linked = fs::hard_link(&beside, path);
    discard(&beside);
    linked?;
    flush_folder(path)
}

/// Writes a new file with a name of its own in the folder of `path`.
fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!(".{name}.{}.{number}.new", std::process::id()));
    // One of a dead process with our number may be left; it is nobody's.
    discard(&beside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.inspect_err(|_| discard(&beside))?;
    Ok(beside)
}

/// Removes a file that is only a means; that it is gone already is fine, and a full disk has been reported.
fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Makes the new name survive a power loss.
fn flush_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        replace(&path, b"one", 0o644).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn create_never_replaces_whoever_comes_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let made = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8_u8)
                .map(|n| {
                    (
                        n,
                        scope.spawn({
                            let path = &path;
                            move || create(path, &[n], 0o600)
                        }),
                    )
                })
                .collect();
            makers.into_iter().filter_map(|(n, maker)| maker.join().unwrap().is_ok().then_some(n)).collect::<Vec<_>>()
        });
        assert_eq!(made.len(), 1);
        assert_eq!(fs::read(&path).unwrap(), made);
        assert_eq!(create(&path, b"z", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
