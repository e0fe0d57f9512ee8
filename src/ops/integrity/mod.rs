//! `probe integrity`: the next restart will boot. Eight checks, each an event of its own, so that a missing binary is never
//! a line inside something else; the guardian asks the ones that decide whether a restart would be the end. It owns which
//! checks there are and what each is called; it refuses to repair anything and to look inside files that are large.

mod definition;
mod program;
mod release;
mod upkeep;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::program::in_build_folder;

use crate::config::args::{IntegrityArgs, ProbeArgs};
use crate::config::home;
use crate::ops::fallback::lock::Lock;
use crate::ops::installed::{self, Installed, Release};
use crate::ops::serving::Serving;
use crate::ops::supervisor::{self, Service, Supervisor};
use crate::ops::watch::event::{Event, Kind, Level};
use crate::ops::watch::plan::Plan;
use crate::ops::watch::tick::{Health, Tick, Watcher};
use crate::platform::process;

const OK: Kind = Kind::info("integrity_ok");
/// Something was not looked at, because nobody wrote down how it should be.
const NOT_INSTALLED: Kind = Kind::info("integrity_not_installed");
const CANNOT_RUN: Kind = Kind::error("integrity_cannot_run").alerting(60);

/// Each check with the kind of event that it fails with.
const PROGRAM: Kind = Kind::error("integrity_program").alerting(60);
const SIGNATURE: Kind = Kind::error("integrity_signature").alerting(60);
const RELEASE: Kind = Kind::error("integrity_release").alerting(60);
const RUNNING: Kind = Kind::error("integrity_running").alerting(60);
const DEFINITION: Kind = Kind::error("integrity_definition").alerting(60);
const MODEL: Kind = Kind::error("integrity_model").alerting(60);
const CERTIFICATES: Kind = Kind::error("integrity_certificates").alerting(24 * 60);
const DISK: Kind = Kind::error("integrity_disk").alerting(60);

/// What `serve` drains for when nothing else is said.
const DRAIN_SECONDS: u64 = 25;

/// What the checks look at.
struct Facts {
    home: PathBuf,
    /// What the supervisor calls the server.
    name: String,
    service: Option<Service>,
    installed: Option<Installed>,
    /// The release that `current` names, with its record, when there is one.
    release: Option<(PathBuf, Release)>,
    /// That the fallback serves; then the server is unloaded, and must boot all the same.
    lock: Option<Lock>,
    /// The process that says in `state/serve.json` that it serves here, while it lives.
    serving: Option<u32>,
    drain_seconds: u64,
    disk_bytes_min: u64,
}

/// One tick, or one look by hand.
#[must_use]
pub(crate) fn run(probe: &ProbeArgs, args: &IntegrityArgs) -> Health {
    let every = args.every_seconds.map(Duration::from_secs);
    let home = home::root(probe.server.root.home.as_deref());
    let name = if every.is_some() { "integrity" } else { "probe-integrity" };
    let tick = Tick::begin(Watcher { name, every }, home.as_deref().ok());
    let prepared = home.map_err(anyhow::Error::from).and_then(|home| {
        let plan = Plan::of(&home)?;
        let supervisor = supervisor::of_system();
        let service = args.service.clone().unwrap_or_else(|| supervisor.server().to_owned());
        let mut facts = Facts::of(&home, supervisor.as_ref(), &service)?;
        facts.drain_seconds = args.drain_seconds.or(facts.drain_seconds_installed()).unwrap_or(DRAIN_SECONDS);
        facts.disk_bytes_min = args.disk_floor_mb * 1_000_000;
        Ok((facts, plan))
    });
    let (facts, plan) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return tick.end(Health::CannotRun, "none", vec![CANNOT_RUN.with(format!("{error:#}"))], None),
    };
    let (health, mut events) = judge(&facts);
    events.extend(facts.lock.as_ref().map(Lock::event));
    tick.end(health, "none", events, Some(&plan))
}

fn judge(facts: &Facts) -> (Health, Vec<Event>) {
    let checks: [(&'static Kind, Vec<String>); 8] = [
        (&PROGRAM, program::of(facts)),
        (&SIGNATURE, program::signature(facts)),
        (&RELEASE, release::of(facts)),
        (&RUNNING, program::running(facts)),
        (&DEFINITION, definition::of(facts)),
        (&MODEL, upkeep::model(facts)),
        (&CERTIFICATES, upkeep::certificates(&facts.home)),
        (&DISK, upkeep::disk(&facts.home, facts.disk_bytes_min)),
    ];
    let failed = checks.iter().filter(|(_, wrong)| !wrong.is_empty()).count();
    let mut events: Vec<Event> =
        checks.into_iter().flat_map(|(kind, wrong)| wrong.into_iter().map(|why| kind.with(why))).collect();
    if facts.installed.is_none() {
        let why = "nothing is installed for this home: what a release holds and a signature were not compared";
        events.push(NOT_INSTALLED.with(why));
    }
    if failed > 0 {
        return (Health::Unhealthy, events);
    }
    events.push(OK.with("the next start finds what it needs"));
    (Health::Healthy, events)
}

/// Everything that would keep `service` from starting again, for whoever is about to end it: the program, its signature,
/// its release, its definition.
pub(crate) fn obstacles(home: &Path, supervisor: &dyn Supervisor, service: &str) -> Vec<String> {
    match Facts::of(home, supervisor, service) {
        Ok(facts) => {
            [program::of(&facts), program::signature(&facts), release::of(&facts), definition::boots(&facts)].concat()
        }
        Err(error) => vec![format!("{error:#}")],
    }
}

/// The program that a definition names, as its supervisor reads it.
///
/// # Errors
/// It cannot be read, or names none.
pub(crate) fn program_of(path: &Path) -> anyhow::Result<PathBuf> {
    definition::program(path)
}

/// The server as it will be loaded again when the fallback has served.
fn unloaded(lock: &Lock, name: &str) -> Option<Service> {
    let path = &lock.primary.definition;
    let program = definition::program(path).ok();
    (lock.primary.name == name).then(|| Service { program, definition: Some(path.clone()), ..Service::default() })
}

/// What of the eight does not hold, for whoever asks by hand.
///
/// # Errors
/// A record is torn, or the supervisor cannot be asked.
pub(crate) fn wrong(home: &Path, supervisor: &dyn Supervisor, service: &str) -> anyhow::Result<Vec<Event>> {
    let mut facts = Facts::of(home, supervisor, service)?;
    facts.drain_seconds = facts.drain_seconds_installed().unwrap_or(DRAIN_SECONDS);
    Ok(judge(&facts).1.into_iter().filter(|event| event.kind.level != Level::Info).collect())
}

impl Facts {
    fn of(home: &Path, supervisor: &dyn Supervisor, name: &str) -> anyhow::Result<Self> {
        let installed = Installed::of(home)?;
        // `current` is what the supervisor follows; where it leads nowhere, the program's check says so.
        let release = std::fs::canonicalize(installed::current(home)).ok();
        let release = match (&installed, release) {
            (Some(_), Some(folder)) => Some((folder.clone(), Release::of(&folder)?)),
            _ => None,
        };
        let serving = Serving::of(home).map(|serving| serving.pid).filter(|pid| process::lives(*pid));
        let lock = Lock::of(home)?;
        let service = supervisor.look(name)?.or_else(|| unloaded(lock.as_ref()?, name));
        Ok(Self {
            home: home.to_owned(),
            name: name.to_owned(),
            service,
            lock,
            installed,
            release,
            serving,
            drain_seconds: DRAIN_SECONDS,
            disk_bytes_min: 0,
        })
    }

    fn drain_seconds_installed(&self) -> Option<u64> {
        self.installed.as_ref().map(|installed| installed.drain_seconds).filter(|seconds| *seconds > 0)
    }

    /// What will be executed next: by the supervisor's word, else where an installation puts it.
    fn program(&self) -> Option<PathBuf> {
        let said = self.service.as_ref().and_then(|service| service.program.clone());
        said.or_else(|| self.installed.as_ref().map(|_| installed::program(&self.home)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "tests.rs"]
mod tests;
