//! A log file that cannot fill the disk: at its bound it is renamed to `.1`, that one to `.2`, and so on, and the oldest
//! goes. It owns the bound and the renames; it refuses to know what a line says, and to keep anybody from working: a
//! line that cannot be written is lost, and the next one tries again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file.
const BYTES_MAX: u64 = 10 << 20;
/// Files kept, the one that is written to among them.
const FILES: u32 = 5;

/// One log, opened for appending.
#[derive(Debug)]
pub struct Rotated {
    path: PathBuf,
    bytes_max: u64,
    open: Option<File>,
}

impl Rotated {
    /// The log at `path`; nothing is opened before the first line.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), bytes_max: BYTES_MAX, open: None }
    }

    /// Appends `text`, which should be whole lines: it is never split between two files.
    ///
    /// # Errors
    /// The folder or the file cannot be written to. The next call opens anew.
    pub fn append(&mut self, text: &[u8]) -> io::Result<()> {
        self.place_for(text.len() as u64)?.write_all(text).inspect_err(|_| self.open = None)
    }

    /// The open file, after a rotation if it is full; opened anew if it is not the one at the path any more.
    fn place_for(&mut self, more: u64) -> io::Result<&mut File> {
        let bytes = match (&self.open, fs::metadata(&self.path)) {
            (Some(file), Ok(there)) if file.metadata()?.ino() == there.ino() => there.len(),
            (_, Ok(there)) => {
                self.open = None;
                there.len()
            }
            (_, Err(_)) => {
                self.open = None;
                0
            }
        };
        if bytes > 0 && bytes + more > self.bytes_max {
            self.open = None;
            self.rotate()?;
        }
        if self.open.is_none() {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            self.open = Some(OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?);
        }
        Ok(self.open.as_mut().expect("it was just opened"))
    }

    fn rotate(&self) -> io::Result<()> {
        for number in (1..FILES - 1).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Each call is one or more whole lines, as the logging threads make them.
impl Write for Rotated {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.append(text).map(|()| text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_moves_on_whole_and_only_the_newest_five_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/x.log");
        let mut log = Rotated { bytes_max: 20, ..Rotated::at(&path) };
        for line in 0..17 {
            log.append(format!("line {line:03}\n").as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join("logs").join(name)).unwrap();
        assert_eq!(read("x.log"), "line 016\n");
        assert_eq!(read("x.log.1"), "line 014\nline 015\n");
        assert_eq!(read("x.log.4"), "line 008\nline 009\n");
        assert_eq!(fs::read_dir(folder.path().join("logs")).unwrap().count(), FILES as usize);
    }

    #[test]
    fn a_log_that_was_moved_or_removed_by_others_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = Rotated::at(&path);
        log.append(b"one\n").unwrap();
        fs::rename(&path, folder.path().join("taken")).unwrap();
        log.append(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        log.append(b"three\n").unwrap_err();
        fs::remove_dir(&path).unwrap();
        log.append(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }
}
