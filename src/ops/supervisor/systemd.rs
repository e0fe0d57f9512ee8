//! The user's systemd through `systemctl --user`: `show` answers with `Name=value` lines, made for programs.

use std::process::Command;

use anyhow::{Context, bail};

use crate::ops::supervisor::{CALL_LIMIT, SERVER_UNIT, Service, Supervisor};
use crate::platform::child;

/// What is asked of a unit.
const PROPERTIES: &str = "LoadState,MainPID,ExecStart,FragmentPath,ExecMainStatus,ExecMainExitTimestampMonotonic";

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
        let text = systemctl(&["show", "--property", PROPERTIES, service])?;
        read(&text).with_context(|| format!("systemctl --user show {service}"))
    }

    fn restart(&self, service: &str) -> anyhow::Result<()> {
        // A unit that failed too often is not started before it is forgiven; that there is nothing to forgive is fine.
        let _ = systemctl(&["reset-failed", service]);
        systemctl(&["restart", "--no-block", service]).map(drop)
    }
}

fn systemctl(words: &[&str]) -> anyhow::Result<String> {
    let ended = child::run(Command::new("systemctl").arg("--user").args(words), b"", CALL_LIMIT)?;
    if !ended.status.success() {
        bail!("systemctl --user {}: {}", words.join(" "), ended.words());
    }
    Ok(ended.stdout)
}

/// Reads what `show` says of one unit.
fn read(text: &str) -> anyhow::Result<Option<Service>> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match value("LoadState") {
        Some("not-found") => return Ok(None),
        Some(_) => {}
        None => bail!("it says no LoadState"),
    }
    let number = |name: &str| -> anyhow::Result<u64> {
        let text = value(name).unwrap_or("0");
        text.parse().with_context(|| format!("{name}={text}"))
    };
    let pid = u32::try_from(number("MainPID")?).context("MainPID")?;
    // `{ path=/x/y ; argv[]=/x/y serve ; ignore_errors=no ; … }`
    let program =
        value("ExecStart").and_then(|text| text.split_once("path=")?.1.split_once(" ; argv[]=").map(|parts| parts.0));
    let ended = number("ExecMainExitTimestampMonotonic")? > 0;
    Ok(Some(Service {
        pid: (pid > 0).then_some(pid),
        program: program.map(Into::into),
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
        let running = "LoadState=loaded\nMainPID=4711\nExecMainStatus=0\nExecMainExitTimestampMonotonic=0\nFragmentPath=/home/u/.config/systemd/user/sanctum-mlx.service\n\
            ExecStart={ path=/home/u v/current/bin/sanctum-mlx ; argv[]=/home/u v/current/bin/sanctum-mlx serve ; ignore_errors=no ; pid=4711 ; status=0/0 }\n";
        let service = read(running).unwrap().unwrap();
        assert_eq!((service.pid, service.last_exit), (Some(4711), None));
        assert_eq!(service.program, Some("/home/u v/current/bin/sanctum-mlx".into()));
        assert_eq!(service.definition, Some("/home/u/.config/systemd/user/sanctum-mlx.service".into()));

        let ended = "LoadState=loaded\nMainPID=0\nExecMainStatus=75\nExecMainExitTimestampMonotonic=99\nFragmentPath=\nExecStart=\n";
        let service = read(ended).unwrap().unwrap();
        assert_eq!(service, Service { last_exit: Some(75), ..Service::default() });

        assert_eq!(read("LoadState=not-found\nMainPID=0\n").unwrap(), None);
        read("").unwrap_err();
        read("LoadState=loaded\nMainPID=x\n").unwrap_err();
    }
}
