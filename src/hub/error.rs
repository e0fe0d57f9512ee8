//! Why a model cannot be had. The messages say what to do, because most of these are met by people on their first day.

use std::io;
use std::path::{Path, PathBuf};

/// Why a model name did not become a folder or file.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No model was named, and the default is not installed.
    #[error(
        "{}: the default model is not there; run scripts/setup to fetch it, or name a model: --model with a folder, a \
         .gguf file or a hub name (sanctum-mlx pull ORG/NAME downloads one)",
        folder.display()
    )]
    NoDefault {
        /// Where it would be.
        folder: PathBuf,
    },
    /// A path that is there but is no model.
    #[error("{}: expected a folder or a .gguf file", path.display())]
    NotAModel {
        /// What was named.
        path: PathBuf,
    },
    /// Neither a path that exists nor a name that could.
    #[error("model {name:?}: {why}")]
    BadName {
        /// What was named.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A sound name that was not downloaded yet.
    #[error("model {name}: not in the cache at {}; sanctum-mlx pull {name} downloads it", cache.display())]
    NotCached {
        /// As it was named.
        name: String,
        /// Where was looked.
        cache: PathBuf,
    },
    /// A download is needed and forbidden.
    #[error("model {name}: not complete in the cache at {}, and HF_HUB_OFFLINE forbids a download", cache.display())]
    Offline {
        /// As it was named.
        name: String,
        /// Where was looked.
        cache: PathBuf,
    },
    /// The repository has no model that could be loaded.
    #[error("model {name}: {why}")]
    NoModel {
        /// As it was named.
        name: String,
        /// What is missing or ambiguous.
        why: String,
    },
    /// The hub wants a token, or this token may not.
    #[error(
        "{url}: refused with status {status}; it may be private, gated or misspelt: accept its terms on the hub and set HF_TOKEN"
    )]
    Denied {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// The hub does not have it.
    #[error("{url}: not found on the hub (status 404)")]
    Absent {
        /// What was asked for.
        url: String,
    },
    /// The hub or the network failed, again and again.
    #[error("{url}: {why} (after {tries} tries)")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// The last failure.
        why: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The hub answered something that cannot be worked with.
    #[error("{url}: {why}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What was expected and found.
        why: String,
    },
    /// The file arrived, and is not the one that was announced.
    #[error("{file}: expected SHA-256 {expected}, found {found}; the download was discarded")]
    Checksum {
        /// The file's name in the repository.
        file: String,
        /// As the hub announced it.
        expected: String,
        /// Of the bytes that came.
        found: String,
    },
    /// Somebody else downloads the same file.
    #[error("{}: another process is downloading this file", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

impl HubError {
    /// Adds the path to an error of the operating system.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// An answer that cannot be worked with.
    pub(super) fn protocol(url: &str, why: impl Into<String>) -> Self {
        Self::Protocol { url: url.to_owned(), why: why.into() }
    }
}
