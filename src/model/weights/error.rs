//! Why a model is refused. A [`Flaw`] says what is wrong inside some bytes, without knowing which file they came from;
//! a [`LoadError`] adds the file. All of them are faults of the files, found before anything is evaluated.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong inside one file. `what` names the place: a header field, a key, a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A value is not what it has to be.
    #[error("{what}: expected {expected}, found {found}")]
    Unexpected {
        /// Header field, key or tensor.
        what: String,
        /// What would have been accepted.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The file ends before the value does.
    #[error("{what}: expected {needed} more bytes, found {left} to the end of the file")]
    Truncated {
        /// Header field, key or tensor.
        what: String,
        /// Bytes that the value takes.
        needed: u64,
        /// Bytes that are there.
        left: u64,
    },
    /// A count or length is beyond its limit.
    #[error("{what}: expected at most {max}, found {found}")]
    TooMany {
        /// What is counted.
        what: String,
        /// The limit: ours, or what the rest of the file could hold.
        max: u64,
        /// The count claimed.
        found: u64,
    },
    /// Something that has to be unique is there twice.
    #[error("{what}: expected once, found twice")]
    Duplicate {
        /// Key or tensor.
        what: String,
    },
    /// The data of two tensors share bytes.
    #[error("tensor {second:?}: expected data of its own, found an overlap with {first:?}")]
    Overlap {
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
    },
    /// Well formed, but a feature that is not implemented.
    #[error("{what}: {found} is not supported, expected {supported}")]
    Unsupported {
        /// Key or tensor.
        what: String,
        /// What is there.
        found: String,
        /// What would have been accepted.
        supported: String,
    },
    /// Something that has to be there is not.
    #[error("{what}: expected, not found")]
    Missing {
        /// Key, tensor or file.
        what: String,
    },
}

impl Flaw {
    /// A value that is not what it has to be.
    pub(crate) fn unexpected(what: impl Display, expected: impl Display, found: impl Display) -> Self {
        Self::Unexpected { what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    /// A feature that is not implemented.
    pub(crate) fn unsupported(what: impl Display, found: impl Display, supported: impl Display) -> Self {
        Self::Unsupported { what: what.to_string(), found: found.to_string(), supported: supported.to_string() }
    }

    /// Something that is absent.
    pub(crate) fn missing(what: impl Display) -> Self {
        Self::Missing { what: what.to_string() }
    }

    /// Says which file it is in.
    pub(crate) fn within(self, path: &Path) -> LoadError {
        LoadError::Flawed { path: path.to_owned(), flaw: self }
    }
}

/// Why a model cannot be loaded. Every message begins with the file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
    /// The content is damaged or not supported.
    #[error("{}: {flaw}", path.display())]
    Flawed {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong in it.
        flaw: Flaw,
    },
}

impl LoadError {
    /// Adds the path to an error of the operating system.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}
