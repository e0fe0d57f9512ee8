//! `drift`: what is deployed is what was installed. Files are compared by what they hold, definitions and settings
//! included; agents by whether they are loaded; the running server by its arguments. Each thing that differs is an event
//! of its own. It changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::config::args::DriftArgs;
use crate::config::home;
use crate::ops::doctor;
use crate::ops::fallback::lock::Lock;
use crate::ops::install;
use crate::ops::installed::{self, Installed, Recorded, Release};
use crate::ops::manifest::hash::{self, Cache};
use crate::ops::manifest::{self, lines};
use crate::ops::state::State;
use crate::ops::supervisor::{self, Supervisor};
use crate::ops::watch::event::{Event, Kind};
use crate::ops::watch::plan::Plan;
use crate::ops::watch::tick::{Health, Tick, Watcher};
use crate::platform::process;

const OK: Kind = Kind::info("drift_ok");
/// A file of the release is gone or holds something else.
const RELEASE: Kind = Kind::error("drift_release").alerting(6 * 60);
/// A definition is gone or says something else.
const DEFINITION: Kind = Kind::error("drift_definition").alerting(6 * 60);
/// The settings say something else: someone edits them, and the next start follows.
const SETTINGS: Kind = Kind::warn("drift_settings");
/// Something that was installed is not loaded.
const UNLOADED: Kind = Kind::error("drift_unloaded").alerting(60);
/// The server runs with other arguments than its definition has.
const ARGUMENTS: Kind = Kind::error("drift_arguments").alerting(6 * 60);
/// The weights are not those of a manifest that starts demand.
const MANIFEST: Kind = Kind::error("drift_manifest").alerting(6 * 60);
/// The firewall of macOS keeps others from listeners that are meant for them.
const FIREWALL: Kind = Kind::warn("drift_firewall");
const CANNOT_RUN: Kind = Kind::error("drift_cannot_run").alerting(60);

/// One tick.
#[must_use]
pub fn run(args: &DriftArgs) -> Health {
    let every = Some(Duration::from_secs(args.every_seconds));
    let home = home::root(args.root.home.as_deref());
    let tick = Tick::begin(Watcher { name: "drift", every }, home.as_deref().ok());
    let prepared = home.map_err(anyhow::Error::from).and_then(|home| {
        let plan = Plan::of(&home)?;
        Ok((of(&home, supervisor::of_system().as_ref())?, plan))
    });
    let (mut events, plan) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return tick.end(Health::CannotRun, "none", vec![CANNOT_RUN.with(format!("{error:#}"))], None),
    };
    if events.is_empty() {
        events.push(OK.with("everything is as it was installed"));
        return tick.end(Health::Healthy, "none", events, Some(&plan));
    }
    tick.end(Health::Unhealthy, "none", events, Some(&plan))
}

/// Everything that is not as it was installed.
///
/// # Errors
/// Nothing is installed, a record is torn, or the supervisor cannot be asked.
pub(crate) fn of(home: &Path, supervisor: &dyn Supervisor) -> anyhow::Result<Vec<Event>> {
    let none = || format!("nothing is installed in {}; `sanctum-mlx install` does", home.display());
    let installed = Installed::of(home)?.with_context(none)?;
    let mut events = Vec::new();
    let link = installed::current(home);
    match fs::canonicalize(&link) {
        Err(error) => events.push(RELEASE.with(format!("{}: {error}", link.display()))),
        Ok(folder) => {
            let files = Release::of(&folder)?.files.into_iter();
            let files = files.map(|file| Recorded { path: folder.join(&file.path), ..file });
            events.extend(changed(home, files.collect())?.into_iter().map(|why| RELEASE.with(why)));
        }
    }
    let definitions = installed.agents.iter().flat_map(|agent| agent.definitions.clone()).collect();
    events.extend(changed(home, definitions)?.into_iter().map(|why| DEFINITION.with(why)));
    let settings = installed.settings.iter().cloned().collect();
    events.extend(changed(home, settings)?.into_iter().map(|why| SETTINGS.with(why)));
    // Settings that do not resolve are what the event above is about.
    if let Ok(settings) = install::settings(home) {
        let model = doctor::model_path(settings.model.as_deref(), home);
        let demanded = settings.manifest.as_deref().zip(model.as_deref());
        events.extend(demanded.and_then(|(key, model)| weights(home, model, key)).map(|why| MANIFEST.with(why)));
        let program = installed::program(home);
        events.extend(doctor::firewall_obstacle(&program, &settings.listen).map(|why| FIREWALL.with(why)));
    }
    let lock = Lock::of(home)?;
    events.extend(lock.as_ref().map(Lock::event));
    for agent in &installed.agents {
        if lock.as_ref().is_some_and(|lock| lock.primary.name == agent.name) {
            continue;
        }
        let Some(service) = supervisor.look(&agent.name)? else {
            events.push(UNLOADED.with(format!("{} has not loaded {}", supervisor.name(), agent.name)));
            continue;
        };
        let Some(pid) = service.pid.filter(|_| !service.arguments.is_empty()) else { continue };
        let wanted = service.arguments.join(" ");
        // One that ended meanwhile is the guardian's to notice.
        if let Ok(runs) = process::command_line(pid)
            && runs != wanted
        {
            events.push(ARGUMENTS.with(format!("process {pid} runs `{runs}`, and {} says `{wanted}`", agent.name)));
        }
    }
    Ok(events)
}

/// What the manifest that a start demands would say, without reading a weight: its signature, its names, and that nothing
/// is younger than it is.
fn weights(home: &Path, model: &Path, key: &Path) -> Option<String> {
    match manifest::glance(home, model, Some(key)) {
        Err(error) => return Some(format!("{error:#}")),
        Ok(None) => return Some(format!("{} has no manifest, and --manifest demands one", model.display())),
        Ok(Some(_)) => {}
    }
    match manifest::outlived(model) {
        Ok(later) if later.is_empty() => None,
        Ok(later) => Some(format!("{}: changed after the manifest was made: {}", model.display(), later.join(", "))),
        Err(error) => Some(format!("{error:#}")),
    }
}

/// What is wrong with files that should be as they are recorded. What did not change since the last look is not read again.
fn changed(home: &Path, files: Vec<Recorded>) -> anyhow::Result<Vec<String>> {
    let (there, gone): (Vec<Recorded>, Vec<Recorded>) = files.into_iter().partition(|file| file.path.is_file());
    let mut wrong: Vec<String> = gone.iter().map(|file| format!("{} is gone", file.path.display())).collect();
    let paths: Vec<PathBuf> = there.iter().map(|file| file.path.clone()).collect();
    let state = State::of(home, "drift-cache");
    let mut cache: Cache = state.read();
    let before = cache.clone();
    let (hashes, _) = hash::all(&paths, &mut cache)?;
    if cache != before {
        // What cannot be kept is computed again at the next tick.
        let _ = state.write(&cache);
    }
    let pairs = there.iter().zip(&hashes).filter(|(file, hash)| lines::hex(*hash) != file.sha256);
    wrong
        .extend(pairs.map(|(file, _)| format!("{} holds something else than what was installed", file.path.display())));
    Ok(wrong)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::config::args::{ManifestAction, ManifestArgs, RootArgs};

    #[test]
    fn a_manifest_that_is_missing_or_older_than_a_weight_is_told_without_reading_one() {
        let home = tempfile::tempdir().unwrap();
        let (model, key) = (home.path().join("m"), home.path().join("keys/manifest.pub"));
        fs::create_dir(&model).unwrap();
        fs::write(model.join("model.safetensors"), "weights").unwrap();
        let run = |action| manifest::run(&ManifestArgs { action, root: RootArgs { home: Some(home.path().into()) } });
        run(ManifestAction::Keygen).unwrap();
        assert!(weights(home.path(), &model, &key).unwrap().contains("has no manifest"));
        run(ManifestAction::Sign { model: model.clone(), key: None }).unwrap();
        assert_eq!(weights(home.path(), &model, &key), None);
        let file = fs::File::options().write(true).open(model.join("model.safetensors")).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(60)).unwrap();
        let told = weights(home.path(), &model, &key).unwrap();
        assert!(told.ends_with("changed after the manifest was made: model.safetensors"), "{told}");
    }
}
