//! The user's systemd through `systemctl --user`: `show` answers with `Name=value` lines, made for programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::ops::supervisor::{CALL_LIMIT, SERVER_UNIT, STOP_LIMIT, Service, Supervisor, below_user_home};
use crate::platform::child;

/// What is asked of a unit.
const PROPERTIES: &str =
    "LoadState,ActiveState,MainPID,ExecStart,FragmentPath,ExecMainStatus,ExecMainExitTimestampMonotonic";

/// The manager of the user that we are.
#[derive(Debug)]
pub(super) struct Systemd;

impl Supervisor for Systemd {
    fn name(&self) -> &'static str {
        "systemd"
    }

    fn server(&self) -> &'static str {
        SERVER_UNIT
    }

    fn look(&self, service: &str) -> anyhow::Result<Option<Service>> {
        read(&show(service)?).with_context(|| format!("systemctl --user show {service}"))
    }

    fn restart(&self, service: &str) -> anyhow::Result<()> {
        // A unit that failed too often is not started before it is forgiven; that there is nothing to forgive is fine.
        let _ = systemctl(&["reset-failed", service], CALL_LIMIT);
        systemctl(&["restart", "--no-block", service], CALL_LIMIT).map(drop)
    }

    fn definitions(&self) -> anyhow::Result<PathBuf> {
        below_user_home(".config/systemd/user")
    }

    fn load(&self, service: &str, _definition: &Path) -> anyhow::Result<()> {
        systemctl(&["daemon-reload"], CALL_LIMIT)?;
        let _ = systemctl(&["reset-failed", service], CALL_LIMIT);
        systemctl(&["enable", service], CALL_LIMIT)?;
        systemctl(&["restart", service], STOP_LIMIT).map(drop)
    }

    fn unload(&self, service: &str) -> anyhow::Result<()> {
        // One that was stopped by hand is still started at login.
        if value(&show(service)?, "LoadState") == Some("not-found") {
            return Ok(());
        }
        systemctl(&["disable", "--now", service], STOP_LIMIT).map(drop)
    }
}

fn show(service: &str) -> anyhow::Result<String> {
    systemctl(&["show", "--property", PROPERTIES, service], CALL_LIMIT)
}

fn systemctl(words: &[&str], limit: Duration) -> anyhow::Result<String> {
    let ended = child::run(Command::new("systemctl").arg("--user").args(words), b"", limit)?;
    if !ended.status.success() {
        bail!("systemctl --user {}: {}", words.join(" "), ended.words());
    }
    Ok(ended.stdout)
}

/// A property in what `show` says.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// Reads what `show` says of one unit. For systemd a unit is loaded as soon as its file was read; for us it is when someone
/// starts it again: one that was stopped, or that systemd gave up on, nobody starts.
fn read(text: &str) -> anyhow::Result<Option<Service>> {
    let value = |name: &str| value(text, name);
    match (value("LoadState"), value("ActiveState")) {
        (Some("not-found"), _) | (Some(_), Some("inactive" | "failed")) => return Ok(None),
        (Some(_), Some(_)) => {}
        (None, _) => bail!("it says no LoadState"),
        (_, None) => bail!("it says no ActiveState"),
    }
    let number = |name: &str| -> anyhow::Result<u64> {
        let text = value(name).unwrap_or("0");
        text.parse().with_context(|| format!("{name}={text}"))
    };
    let pid = u32::try_from(number("MainPID")?).context("MainPID")?;
    // `{ path=/x/y ; argv[]=/x/y serve ; ignore_errors=no ; … }`
    let started = value("ExecStart").and_then(|text| text.split_once("path=")?.1.split_once(" ; argv[]="));
    let program = started.map(|parts| parts.0);
    // Without quotes: an argument with a space in it reads as two.
    let arguments =
        started.and_then(|parts| Some(parts.1.split_once(" ; ")?.0.split(' ').map(str::to_owned).collect()));
    let ended = number("ExecMainExitTimestampMonotonic")? > 0;
    Ok(Some(Service {
        pid: (pid > 0).then_some(pid),
        program: program.map(Into::into),
        arguments: arguments.unwrap_or_default(),
        definition: value("FragmentPath").filter(|path| !path.is_empty()).map(Into::into),
        last_exit: if ended { i32::try_from(number("ExecMainStatus")?).ok() } else { None },
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_running_unit_one_that_ended_and_one_that_is_not_there_are_told_apart() {
        let running = "LoadState=loaded\nActiveState=active\nMainPID=4711\nExecMainStatus=0\nExecMainExitTimestampMonotonic=0\nFragmentPath=/home/u/.config/systemd/user/sanctum-mlx.service\n\
            ExecStart={ path=/home/u v/current/bin/sanctum-mlx ; argv[]=/home/u v/current/bin/sanctum-mlx serve ; ignore_errors=no ; pid=4711 ; status=0/0 }\n";
        let service = read(running).unwrap().unwrap();
        assert_eq!((service.pid, service.last_exit), (Some(4711), None));
        assert_eq!(service.program, Some("/home/u v/current/bin/sanctum-mlx".into()));
        assert_eq!(service.definition, Some("/home/u/.config/systemd/user/sanctum-mlx.service".into()));

        let ended = "LoadState=loaded\nActiveState=activating\nMainPID=0\nExecMainStatus=75\nExecMainExitTimestampMonotonic=99\nFragmentPath=\nExecStart=\n";
        let service = read(ended).unwrap().unwrap();
        assert_eq!(service, Service { last_exit: Some(75), ..Service::default() });

        assert_eq!(read("LoadState=not-found\nActiveState=inactive\nMainPID=0\n").unwrap(), None);
        for state in ["inactive", "failed"] {
            let nobody_starts_it = read(&format!("LoadState=loaded\nActiveState={state}\nMainPID=0\n")).unwrap();
            assert_eq!(nobody_starts_it, None, "{state}");
        }
        for wrong in ["", "LoadState=loaded\n", "LoadState=loaded\nActiveState=active\nMainPID=x\n"] {
            read(wrong).unwrap_err();
        }
    }
}
