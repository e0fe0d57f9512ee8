//! launchd through `launchctl`: agents of the user's graphical session, `gui/<uid>`. Its `print` is for people, yet the
//! only way to learn what is loaded; only lines of the outermost level are read, by their names.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::ops::supervisor::{CALL_LIMIT, SERVER_LABEL, STOP_LIMIT, Service, Supervisor, below_user_home};
use crate::platform::child::{self, Ended};
use crate::platform::host;

/// The program, looked for where only the system writes.
const LAUNCHCTL: &str = "/bin/launchctl";
/// What `print` exits with when it knows no such service.
const UNKNOWN_SERVICE: i32 = 113;
/// What `bootout` exits with then (`ESRCH`).
const NO_SUCH_PROCESS: i32 = 3;
/// How often it is looked whether a service is gone.
const LOOK: Duration = Duration::from_millis(100);

/// The domain of one user.
#[derive(Debug)]
pub(super) struct Launchd {
    launchctl: PathBuf,
    domain: String,
}

impl Launchd {
    pub(super) fn of_user() -> Self {
        Self::through(LAUNCHCTL.into())
    }

    /// By a program that behaves as `launchctl` does.
    pub(super) fn through(launchctl: PathBuf) -> Self {
        Self { launchctl, domain: format!("gui/{}", host::user_id()) }
    }

    fn target(&self, service: &str) -> String {
        format!("{}/{service}", self.domain)
    }

    fn call(&self, words: &[&str]) -> anyhow::Result<Ended> {
        Ok(child::run(Command::new(&self.launchctl).args(words), b"", CALL_LIMIT)?)
    }

    /// A call that must succeed.
    fn told(&self, words: &[&str]) -> anyhow::Result<()> {
        let ended = self.call(words)?;
        if !ended.status.success() {
            bail!("launchctl {}: {}", words.join(" "), ended.words());
        }
        Ok(())
    }

    /// `bootout` returns while the process still ends, and a `bootstrap` before its end fails with error 5.
    fn boot_out(&self, service: &str) -> anyhow::Result<()> {
        let target = self.target(service);
        let ended = self.call(&["bootout", &target])?;
        if !ended.status.success() && !matches!(ended.status.code(), Some(NO_SUCH_PROCESS | UNKNOWN_SERVICE)) {
            bail!("launchctl bootout {target}: {}", ended.words());
        }
        let begun = Instant::now();
        while self.look(service)?.is_some() {
            if begun.elapsed() > STOP_LIMIT {
                bail!("{service} is still loaded {} s after launchctl bootout {target}", STOP_LIMIT.as_secs());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
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
        let target = self.target(service);
        let ended = self.call(&["print", &target])?;
        match ended.status.code() {
            Some(0) => read(&ended.stdout).map(Some).with_context(|| format!("launchctl print {target}")),
            Some(UNKNOWN_SERVICE) => Ok(None),
            _ => bail!("launchctl print {target}: {}", ended.words()),
        }
    }

    fn restart(&self, service: &str) -> anyhow::Result<()> {
        self.told(&["kickstart", "-k", &self.target(service)])
    }

    fn definitions(&self) -> anyhow::Result<PathBuf> {
        below_user_home("Library/LaunchAgents")
    }

    fn load(&self, service: &str, definition: &Path) -> anyhow::Result<()> {
        let definition = definition.to_str().with_context(|| format!("{} is not UTF-8", definition.display()))?;
        self.boot_out(service)?;
        self.told(&["enable", &self.target(service)])?;
        self.told(&["bootstrap", &self.domain, definition])
    }

    fn unload(&self, service: &str) -> anyhow::Result<()> {
        self.boot_out(service)?;
        self.told(&["disable", &self.target(service)])
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
    // Members of the outermost level have one tab before them; of what is deeper only the arguments are ours.
    let mut list = "";
    for line in lines.filter_map(|line| line.strip_prefix('\t')) {
        if let Some(deeper) = line.strip_prefix('\t') {
            if list == "arguments" {
                service.arguments.push(deeper.to_owned());
            }
            continue;
        }
        let Some((key, value)) = line.split_once(" = ") else { continue };
        match key {
            _ if value == "{" => list = key,
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
                arguments: vec!["/opt/a b/.sanctum-mlx/current/bin/sanctum-mlx".to_owned(), "serve".to_owned()],
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
