//! launchd through `launchctl`: agents of the user's graphical session, `gui/<uid>`. Its `print` is for people, yet the
//! only way to learn what is loaded; only lines of the outermost level are read, by their names.

use std::process::Command;

use anyhow::{Context, bail};

use crate::ops::supervisor::{CALL_LIMIT, SERVER_LABEL, Service, Supervisor};
use crate::platform::{child, host};

/// The program, looked for where only the system writes.
const LAUNCHCTL: &str = "/bin/launchctl";
/// What `print` exits with when it knows no such service.
const UNKNOWN_SERVICE: i32 = 113;

/// The domain of one user.
#[derive(Debug)]
pub(super) struct Launchd {
    domain: String,
}

impl Launchd {
    pub(super) fn of_user() -> Self {
        Self { domain: format!("gui/{}", host::user_id()) }
    }
}

impl Supervisor for Launchd {
    fn name(&self) -> &'static str {
        "launchd"
    }

    fn server(&self) -> &'static str {
        SERVER_LABEL
    }

    fn look(&self, service: &str) -> anyhow::Result<Option<Service>> {
        let target = format!("{}/{service}", self.domain);
        let ended = child::run(Command::new(LAUNCHCTL).args(["print", &target]), b"", CALL_LIMIT)?;
        match ended.status.code() {
            Some(0) => read(&ended.stdout).map(Some).with_context(|| format!("launchctl print {target}")),
            Some(UNKNOWN_SERVICE) => Ok(None),
            _ => bail!("launchctl print {target}: {}", ended.words()),
        }
    }

    fn restart(&self, service: &str) -> anyhow::Result<()> {
        let target = format!("{}/{service}", self.domain);
        let ended = child::run(Command::new(LAUNCHCTL).args(["kickstart", "-k", &target]), b"", CALL_LIMIT)?;
        if !ended.status.success() {
            bail!("launchctl kickstart -k {target}: {}", ended.words());
        }
        Ok(())
    }
}

/// Reads what `print` says of one service.
fn read(text: &str) -> anyhow::Result<Service> {
    let mut service = Service::default();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if !first.ends_with("= {") {
        bail!("begins with {first:?} instead of a service");
    }
    // Members of the outermost level have one tab before them; deeper ones, such as environments, are not ours.
    for line in lines.filter_map(|line| line.strip_prefix('\t')).filter(|line| !line.starts_with(['\t', '}'])) {
        let Some((key, value)) = line.split_once(" = ") else { continue };
        match key {
            "pid" => service.pid = Some(value.parse().with_context(|| format!("pid = {value}"))?),
            "program" => service.program = Some(value.into()),
            "path" => service.definition = Some(value.into()),
            // "(never exited)", or a number with the name of a signal behind it.
            "last exit code" => service.last_exit = value.split(':').next().and_then(|code| code.trim().parse().ok()),
            _ => {}
        }
    }
    Ok(service)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As macOS 15 prints it, shortened.
    const PRINTED: &str = "gui/501/com.sanctum.mlx = {\n\tactive count = 1\n\tpath = /opt/a b/Library/LaunchAgents/com.sanctum.mlx.plist\n\
        \ttype = LaunchAgent\n\tstate = running\n\n\tprogram = /opt/a b/.sanctum-mlx/current/bin/sanctum-mlx\n\targuments = {\n\
        \t\t/opt/a b/.sanctum-mlx/current/bin/sanctum-mlx\n\t\tserve\n\t}\n\n\tenvironment = {\n\t\tpid = 7\n\t\tXPC_SERVICE_NAME => x\n\t}\n\n\
        \tdomain = gui/501 [100005]\n\tasid = 100005\n\tminimum runtime = 10\n\texit timeout = 40\n\truns = 3\n\tpid = 4711\n\
        \tlast exit code = 75: EX_TEMPFAIL\n}\n";

    #[test]
    fn a_running_agent_is_read_and_what_is_nested_is_not() {
        assert_eq!(
            read(PRINTED).unwrap(),
            Service {
                pid: Some(4711),
                program: Some("/opt/a b/.sanctum-mlx/current/bin/sanctum-mlx".into()),
                definition: Some("/opt/a b/Library/LaunchAgents/com.sanctum.mlx.plist".into()),
                last_exit: Some(75),
            }
        );
    }

    #[test]
    fn an_agent_that_never_ran_has_no_process_and_no_end() {
        let text = "gui/501/x = {\n\tstate = not running\n\tlast exit code = (never exited)\n}\n";
        assert_eq!(read(text).unwrap(), Service::default());
        read("Could not find service").unwrap_err();
        read("x = {\n\tpid = many\n}").unwrap_err();
    }
}
