//! A file mapped for reading. It owns the promise that makes a mapping sound to read as bytes: the file is a regular
//! one, it is mapped privately and read-only, and nobody in this process writes to it.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

/// The bytes of a file, paged in as they are read.
///
/// Another process that truncates the file while it is mapped makes reads of the lost pages fail with SIGBUS. Model
/// files are replaced by rename, never written in place, so that is an operator's mistake and ends the process.
#[derive(Debug)]
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps the whole of a regular file.
    ///
    /// # Errors
    /// The file cannot be opened or mapped, or it is no regular file (a folder, a pipe, a device).
    pub fn open(path: &Path) -> io::Result<Self> {
        // Looked at before it is opened: opening a pipe would wait for its other end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        Self::of(&file).map(Self)
    }

    /// Lets go of the pages read so far, which are paged in again if they are needed: what was copied out of a file does
    /// not count twice in the memory of the process.
    #[allow(unsafe_code)]
    pub fn release(&self) {
        // SAFETY: the map is of a file and read-only, so a page that is dropped comes back with the same bytes.
        // A system that refuses only keeps more in memory.
        let _ = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) };
    }

    #[allow(unsafe_code)]
    fn of(file: &File) -> io::Result<Mmap> {
        // SAFETY: the map is private and read-only, and no code of this process writes to a model file; the remark on
        // the type says what happens when another process shortens it.
        unsafe { Mmap::map(file) }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_holds_the_bytes_of_its_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("bytes");
        std::fs::write(&path, b"some bytes").expect("written");
        let mapping = Mapping::open(&path).expect("mapped");
        assert_eq!(&*mapping, b"some bytes");
        mapping.release();
        assert_eq!(&*mapping, b"some bytes");
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").expect("written");
        assert!(Mapping::open(&path).expect("mapped").is_empty());
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(Mapping::open(folder.path()).is_err());
        assert!(Mapping::open(&folder.path().join("absent")).is_err());
        assert!(Mapping::open(Path::new("/dev/null")).is_err());
    }
}
