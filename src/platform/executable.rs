//! The file that a process was started from: this one's, and whether it is still there as it was; another's, and whether
//! it is the one at a path. It owns what counts as the same file (device, inode, size, time); it refuses to know why someone removed it: a build clean-up did once.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
#[cfg(not(target_os = "linux"))]
use std::process::Command;
#[cfg(not(target_os = "linux"))]
use std::time::Duration;
use std::time::SystemTime;

#[cfg(not(target_os = "linux"))]
use crate::platform::child;

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

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of what is at `path` now.
    ///
    /// # Errors
    /// Nothing is there, or it may not be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let facts = fs::metadata(path)?;
        Ok(Self { device: facts.dev(), inode: facts.ino() })
    }

    /// Of what a process was started from, also when that has no name any more.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked at.
    #[cfg(target_os = "linux")]
    pub fn of_process(pid: u32) -> io::Result<Self> {
        // The kernel follows this link to the file itself, not by its name.
        Self::of(Path::new(&format!("/proc/{pid}/exe")))
    }

    /// Of what a process was started from, also when that has no name any more.
    ///
    /// # Errors
    /// There is no such process, or it may not be looked at.
    #[cfg(not(target_os = "linux"))]
    pub fn of_process(pid: u32) -> io::Result<Self> {
        const LSOF: &str = "/usr/sbin/lsof";
        const LIMIT: Duration = Duration::from_secs(10);
        let pid = pid.to_string();
        let ended = child::run(Command::new(LSOF).args(["-a", "-p", &pid, "-d", "txt", "-F", "Di"]), b"", LIMIT)?;
        first_file(&ended.stdout).ok_or_else(|| io::Error::other(format!("lsof -p {pid}: {}", ended.words())))
    }
}

/// The first file in what `lsof -F Di` says: of the texts of a process, that is its executable.
#[cfg(any(test, not(target_os = "linux")))]
fn first_file(text: &str) -> Option<Identity> {
    let mut device = None;
    for line in text.lines() {
        if let Some(word) = line.strip_prefix('D') {
            device = u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok();
        } else if let Some(word) = line.strip_prefix('i') {
            return Some(Identity { device: device?, inode: word.parse().ok()? });
        }
    }
    None
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

    #[test]
    fn a_process_is_known_by_its_file_also_when_that_is_replaced_or_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let (program, other) = (folder.path().join("sleep"), folder.path().join("other"));
        fs::copy("/bin/sleep", &program).unwrap();
        fs::copy("/bin/sleep", &other).unwrap();
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        let before = Identity::of(&program).unwrap();
        assert_eq!(Identity::of_process(child.id()).unwrap(), before);
        fs::rename(&other, &program).unwrap();
        assert_ne!(Identity::of(&program).unwrap(), before);
        assert_eq!(Identity::of_process(child.id()).unwrap(), before, "the file that runs, not the one of its name");
        child.kill().unwrap();
        child.wait().unwrap();
        Identity::of_process(child.id()).unwrap_err();
    }

    #[test]
    fn what_lsof_says_is_read() {
        let text = "p4711\nftxt\nD0x100000d\ni123\nftxt\nD0x100000d\ni9\n";
        assert_eq!(first_file(text), Some(Identity { device: 0x0100_000d, inode: 123 }));
        assert_eq!(first_file("p4711\n"), None);
    }
}
