//! Whether a restart would run what runs now: the server looks at its own executable again and again, and says so in
//! `/metrics`, `/health` and, once each time it changes, in the log. Serving goes on either way. It refuses to know how
//! the file is compared and who reads the verdict.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use crate::platform::executable::{Executable, Wrong};

/// The latest verdict. Clones share it.
#[derive(Debug, Clone)]
pub struct BinaryIntegrity {
    /// 1 while it is as it was.
    pub gauge: Gauge,
    wrong: Arc<Mutex<Option<Wrong>>>,
    /// Where the executable is, and its inode; empty before the first look, or if it was never found.
    found: Arc<OnceLock<(PathBuf, u64)>>,
}

impl Default for BinaryIntegrity {
    fn default() -> Self {
        let gauge = Gauge::default();
        gauge.set(1);
        Self { gauge, wrong: Arc::default(), found: Arc::default() }
    }
}

impl BinaryIntegrity {
    /// What is wrong with the executable, if anything was at the last look.
    #[must_use]
    pub fn wrong(&self) -> Option<String> {
        self.wrong.lock().as_ref().map(Wrong::to_string)
    }

    /// The path of the executable and the inode that runs, once it was looked at.
    #[must_use]
    pub fn found(&self) -> Option<(&Path, u64)> {
        self.found.get().map(|(path, inode)| (path.as_path(), *inode))
    }

    /// Looks once. An executable that could not even be found is wrong for good.
    pub fn judge(&self, executable: &io::Result<Executable>) {
        let wrong = match executable {
            Ok(executable) => {
                self.found.get_or_init(|| (executable.path().to_owned(), executable.inode()));
                executable.wrong()
            }
            Err(error) => Some(Wrong::Unreadable(error.to_string())),
        };
        self.gauge.set(i64::from(wrong.is_none()));
        let before = std::mem::replace(&mut *self.wrong.lock(), wrong.clone());
        let path = executable.as_ref().map_or("?".into(), |executable| executable.path().to_string_lossy());
        match wrong {
            Some(wrong) if before.as_ref() != Some(&wrong) => {
                tracing::error!(event = "binary_integrity", %path, %wrong, "the executable is not what it was");
            }
            None if before.is_some() => tracing::info!(event = "binary_integrity", %path, "the executable is back"),
            _ => {}
        }
    }
}
