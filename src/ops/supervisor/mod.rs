//! Who starts the server and starts it again: launchd on a Mac, the user's systemd on Linux. It owns what we ask of them
//! and how their answers are read; it refuses to decide when a restart is right, which is the guardian's.

mod launchd;
mod systemd;

use std::path::PathBuf;
use std::time::Duration;

/// The server's name with launchd.
const SERVER_LABEL: &str = "com.sanctum.mlx";
/// The server's name with systemd.
const SERVER_UNIT: &str = "sanctum-mlx.service";
/// How long a call of theirs may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What a supervisor knows of a service that it has loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// The process, while there is one.
    pub(crate) pid: Option<u32>,
    /// What it will execute next.
    pub(crate) program: Option<PathBuf>,
    /// The file that defines it.
    pub(crate) definition: Option<PathBuf>,
    /// How the last process ended, where that is told.
    pub(crate) last_exit: Option<i32>,
}

/// A supervisor of this user's services.
pub(crate) trait Supervisor {
    /// Its name, for a person.
    fn name(&self) -> &'static str;

    /// What the server is called there unless told otherwise.
    fn server(&self) -> &'static str;

    /// What it knows of `service`; `None` when it has not loaded it.
    ///
    /// # Errors
    /// It cannot be asked, or its answer cannot be read.
    fn look(&self, service: &str) -> anyhow::Result<Option<Service>>;

    /// Kills the process of `service`, if there is one, and starts it anew.
    ///
    /// # Errors
    /// It refused; the message holds its words.
    fn restart(&self, service: &str) -> anyhow::Result<()>;
}

/// The one of this system.
pub(crate) fn of_system() -> Box<dyn Supervisor> {
    if cfg!(target_os = "macos") { Box::new(launchd::Launchd::of_user()) } else { Box::new(systemd::Systemd) }
}
