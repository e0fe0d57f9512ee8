//! Who starts the server when nobody is there: the agents that were installed, and the session in which they live. It
//! refuses to load anything.

use crate::ops::doctor::system::{System, Tool};
use crate::ops::doctor::{Finding, quoted};
use crate::ops::installed::{Agent, Installed};
use crate::ops::supervisor::Supervisor;
use crate::platform::host;

/// Where macOS keeps who logs in by itself.
const LOGIN_WINDOW: &str = "/Library/Preferences/com.apple.loginwindow";

/// Each agent of the installation: defined, and loaded.
pub(super) fn loaded(installed: Option<&Installed>, supervisor: &dyn Supervisor) -> Vec<Finding> {
    const CHECK: &str = "agents";
    let agents = installed.map_or(&[][..], |installed| &installed.agents);
    if agents.is_empty() {
        return vec![Finding::not_applicable(CHECK, "none are installed, so none has to be loaded")];
    }
    agents.iter().map(|agent| look(agent, supervisor)).collect()
}

fn look(agent: &Agent, supervisor: &dyn Supervisor) -> Finding {
    const CHECK: &str = "agents";
    const REMEDY: &str = "`sanctum-mlx install` writes and loads it again";
    let (name, whose) = (&agent.name, supervisor.name());
    if let Some(gone) = agent.definitions.iter().find(|file| !file.path.is_file()) {
        return Finding::fail(CHECK, format!("{name} is not defined any more: {} is gone", quoted(&gone.path)), REMEDY);
    }
    match supervisor.look(name) {
        Err(error) => {
            let remedy = "run this as the user whose agents they are, in a session of theirs";
            Finding::warn(CHECK, format!("{whose} cannot be asked about {name}: {error:#}"), remedy)
        }
        Ok(None) => Finding::fail(CHECK, format!("{whose} has not loaded {name}: nothing would start it"), REMEDY),
        Ok(Some(service)) => {
            let running = service.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
            Finding::ok(CHECK, format!("{whose} has loaded {name}{running}"))
        }
    }
}

/// Whether agents of this user run before anybody logs in. Who starts the server by hand need not care, so that it is
/// never a failure.
pub(super) fn login(system: &dyn System) -> Finding {
    const CHECK: &str = "login";
    if let Some(answer) = system.ask(Tool::Defaults, &["read", LOGIN_WINDOW, "autoLoginUser"]) {
        let remedy = "System Settings, Users & Groups, Automatically log in as; FileVault must be off for it";
        return match answer {
            Ok(ended) if ended.status.success() && !ended.stdout.trim().is_empty() => {
                Finding::ok(CHECK, format!("{} logs in by itself when the machine starts", ended.stdout.trim()))
            }
            Ok(_) => Finding::warn(CHECK, "nobody logs in by itself, and agents do not run before a login", remedy),
            Err(error) => Finding::warn(CHECK, error.to_string(), remedy),
        };
    }
    let user = host::user_id().to_string();
    if let Some(answer) = system.ask(Tool::Loginctl, &["show-user", &user, "--property=Linger"]) {
        let remedy = "`loginctl enable-linger` lets your services run without a session";
        return match answer {
            Ok(ended) if ended.stdout.lines().any(|line| line == "Linger=yes") => {
                Finding::ok(CHECK, "your services run without a session (lingering is on)")
            }
            // Of a user who neither lingers nor is logged in it says that it knows nothing.
            Ok(_) => Finding::warn(CHECK, "your services end with your last session (lingering is off)", remedy),
            Err(error) => Finding::warn(CHECK, error.to_string(), remedy),
        };
    }
    Finding::not_applicable(CHECK, "neither macOS nor systemd manages logins here")
}
