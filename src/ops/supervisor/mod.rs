//! Who starts the server and starts it again: launchd on a Mac, the user's systemd on Linux. It owns what we ask of them
//! and how their answers are read; it refuses to decide when a restart is right, which is the guardian's.

mod launchd;
mod systemd;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

/// The server's name with launchd.
const SERVER_LABEL: &str = "com.sanctum.mlx";
/// The server's name with systemd.
const SERVER_UNIT: &str = "sanctum-mlx.service";
/// How long a call of theirs may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long a service may take to end when it is unloaded: more than the `ExitTimeOut` of every definition of ours.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// What a supervisor knows of a service that it has loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// The process, while there is one.
    pub(crate) pid: Option<u32>,
    /// What it will execute next.
    pub(crate) program: Option<PathBuf>,
    /// With these arguments, the program's own name first.
    pub(crate) arguments: Vec<String>,
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

    /// The folder in which it looks for definitions when the user logs in.
    ///
    /// # Errors
    /// The user has no home folder.
    fn definitions(&self) -> anyhow::Result<PathBuf>;

    /// Loads `service` from its definition as it is on disk now, and starts it; from now on it is also started at login.
    /// One that is loaded is unloaded first: nobody reads a changed definition otherwise.
    ///
    /// # Errors
    /// It refused; the message holds its words.
    fn load(&self, service: &str, definition: &Path) -> anyhow::Result<()>;

    /// Ends `service`, waits until it is gone, and sees to it that it is not started at login. One that is not loaded is
    /// no mistake.
    ///
    /// # Errors
    /// It refused, or the service did not end; the message holds its words.
    fn unload(&self, service: &str) -> anyhow::Result<()>;
}

/// A folder below the user's home.
fn below_user_home(path: &str) -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).context("there is no HOME variable")?;
    Ok(PathBuf::from(home).join(path))
}

/// The one of this system. In builds with the `fault` feature the variable `SANCTUM_MLX_LAUNCHCTL` names a program that
/// behaves as `launchctl` does, so that launchd's side is played through on any system.
pub(crate) fn of_system() -> Box<dyn Supervisor> {
    #[cfg(feature = "fault")]
    if let Some(program) = std::env::var_os("SANCTUM_MLX_LAUNCHCTL") {
        return Box::new(launchd::Launchd::through(program.into()));
    }
    if cfg!(target_os = "macos") { Box::new(launchd::Launchd::of_user()) } else { Box::new(systemd::Systemd) }
}
