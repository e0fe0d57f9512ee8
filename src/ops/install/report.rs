//! `status`: what is installed, what runs, and what of it is not as it should be, from the supervisor, the processes and
//! the files themselves and never from the definition alone.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::ops::drift;
use crate::ops::installed::{self, Installed};
use crate::ops::integrity;
use crate::ops::supervisor::Supervisor;
use crate::ops::watch::event::Level;

/// Prints the truth; whether all is well.
pub(super) fn status(home: &Path, supervisor: &dyn Supervisor, as_json: bool) -> anyhow::Result<bool> {
    let none = || format!("nothing is installed in {}; `sanctum-mlx install` does", home.display());
    let installed = Installed::of(home)?.with_context(none)?;
    let current = std::fs::read_link(installed::current(home)).ok();
    let mut agents = Vec::new();
    for agent in &installed.agents {
        let service = supervisor.look(&agent.name)?;
        let pid = service.as_ref().and_then(|service| service.pid);
        agents.push((agent.name.as_str(), service.is_some(), pid));
    }
    let name = installed.agents.first().map_or_else(|| supervisor.server(), |agent| agent.name.as_str());
    let mut wrong = integrity::wrong(home, supervisor, name)?;
    wrong.extend(drift::of(home, supervisor)?);
    let well = wrong.iter().all(|event| event.kind.level != Level::Error);
    if as_json {
        let agents: Vec<_> =
            agents.iter().map(|(name, loaded, pid)| json!({"name": name, "loaded": loaded, "pid": pid})).collect();
        let wrong: Vec<_> =
            wrong.iter().map(|event| json!({"event": event.kind.name, "detail": event.detail})).collect();
        let previous = installed.previous.as_ref();
        let text = json!({"release": current, "previous": previous, "supervisor": supervisor.name(), "agents": agents, "wrong": wrong});
        println!("{}", serde_json::to_string_pretty(&text)?);
        return Ok(well);
    }
    let shown =
        |path: Option<&std::path::PathBuf>| path.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    let mut text =
        format!("release   {}\nprevious  {}\n\n", shown(current.as_ref()), shown(installed.previous.as_ref()));
    let width = agents.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
    for (name, loaded, pid) in agents {
        let loaded = if loaded { "loaded" } else { "NOT LOADED" };
        let pid = pid.map_or_else(String::new, |pid| format!("process {pid}"));
        writeln!(text, "{name:width$}  {loaded:10}  {pid}").expect("a String takes everything");
    }
    for event in &wrong {
        write!(text, "\n{}: {}", event.kind.name, event.detail).expect("a String takes everything");
    }
    if wrong.is_empty() {
        text += "\neverything is as it was installed";
    }
    println!("{text}");
    Ok(well)
}
