//! The file that this process was started from, and whether it is still there as it was. It owns what counts as the same
//! file (device, inode, size, time); it refuses to know why someone removed it: a build clean-up did once.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The executable as it was when it was first looked at.
#[derive(Debug, Clone)]
pub struct Executable {
    path: PathBuf,
    stamp: Stamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let facts = fs::metadata(path)?;
        Ok(Self { device: facts.dev(), inode: facts.ino(), bytes: facts.len(), modified: facts.modified().ok() })
    }
}

/// What is wrong with it: a restart would not run what runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// There is no such file any more.
    Missing,
    /// Another file is in its place, or it was written to.
    Changed,
    /// It cannot be looked at.
    Unreadable(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => formatter.write_str("it is gone: the next start would fail"),
            Self::Changed => formatter.write_str("it is another file than the one that runs"),
            Self::Unreadable(why) => write!(formatter, "it cannot be looked at: {why}"),
        }
    }
}

impl Executable {
    /// The executable of this process; call it early, while it is still what was started.
    ///
    /// # Errors
    /// The system does not say which file it is, or it is gone already.
    pub fn of_process() -> io::Result<Self> {
        Self::at(&std::env::current_exe()?)
    }

    fn at(path: &Path) -> io::Result<Self> {
        // The file itself: a link on the way to it may be switched to the next release without any harm to this one.
        let path = fs::canonicalize(path)?;
        Ok(Self { stamp: Stamp::of(&path)?, path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its inode when it was first looked at.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.stamp.inode
    }

    /// What is wrong with it now, if anything.
    #[must_use]
    pub fn wrong(&self) -> Option<Wrong> {
        match Stamp::of(&self.path) {
            Ok(stamp) => (stamp != self.stamp).then_some(Wrong::Changed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Wrong::Missing),
            Err(error) => Some(Wrong::Unreadable(error.to_string())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_is_removed_replaced_or_written_to_is_told_apart_from_a_link_that_moved() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new, link) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("current"));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new!").unwrap();
        symlink(&old, &link).unwrap();
        let executable = Executable::at(&link).unwrap();
        assert_eq!(executable.wrong(), None);
        fs::remove_file(&link).unwrap();
        symlink(&new, &link).unwrap();
        assert_eq!(executable.wrong(), None, "the release that runs is still there");
        fs::write(&old, "older").unwrap();
        assert_eq!(executable.wrong(), Some(Wrong::Changed));
        fs::remove_file(&old).unwrap();
        assert_eq!(executable.wrong(), Some(Wrong::Missing));
        fs::rename(&new, &old).unwrap();
        assert_eq!(executable.wrong(), Some(Wrong::Changed));
        assert_eq!(Executable::of_process().unwrap().wrong(), None);
    }
}
