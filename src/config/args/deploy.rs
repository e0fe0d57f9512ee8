//! The command line of installing: where to, and their pages of the manual.

use clap::{Args, value_parser};

use crate::config::args::RootArgs;

pub(super) const INSTALL_NOTES: &str = "\
Copies this program and everything it loads that is not the system's to <home>/releases/VERSION-REVISION/, has the copy
prove that it needs nothing else, makes <home>/current name it, writes the definitions of the server and of its five
watchers (launchd's agents on a Mac, units of the user's systemd elsewhere), loads them, waits until the server is ready,
and asks it a question over mutual TLS. When it does not answer, the release before is put back. Settings are those of
<home>/config.toml. Running it again changes nothing; an interrupted run is finished by the next one.

Examples:
  sanctum-mlx install
  sanctum-mlx upgrade              # the same, from a newer build; `rollback` goes back
  sanctum-mlx install --no-start   # files only
  sanctum-mlx status

Exit codes: 0 done; 78 it cannot be done, and what was there before is there still; 64 the command line is not understood.";

pub(super) const DRIFT_NOTES: &str = "\
Compares, by what they hold, every file of the release, every definition and the settings with what was installed; looks
whether every agent is loaded, and whether the server runs with the arguments of its definition. Each difference is an
event of its own: drift_release, drift_definition, drift_settings (a warning), drift_unloaded, drift_arguments.

Exit codes: 0 nothing differs; 1 something does; 2 cannot run: nothing is installed; 64 the command line is not understood.";

/// `install` and `upgrade`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// Lay the files down and load nothing.
    #[arg(long)]
    pub no_start: bool,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Change files and load nothing.
    #[arg(long)]
    pub no_start: bool,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// `uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Remove every release too.
    #[arg(long)]
    pub purge: bool,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}

/// `drift`.
#[derive(Debug, Args)]
pub struct DriftArgs {
    /// How often it is scheduled.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = value_parser!(u64).range(1..=604_800))]
    pub every_seconds: u64,
    /// Where things are kept.
    #[command(flatten)]
    pub root: RootArgs,
}
