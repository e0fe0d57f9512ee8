//! One run of one watcher, from its begin to its exit code: a JSON line for each event on stdout and in a log that
//! rotates, alerts for whom they concern, word left for the next tick, and a look at the other watchers, whose silence is
//! an event too. It owns that nothing of this can make a healthy server unhealthy; it refuses to know what is watched.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ops::state::{self, State};
use crate::ops::watch::alert::{Alert, Sinks, Told};
use crate::ops::watch::event::{Event, Kind, Level};
use crate::ops::watch::plan::Plan;
use crate::platform::host;
use crate::telemetry::rotated::Rotated;

/// A watcher of ours has not run for more than [`STALE`] of its cadences.
const COMPANION_STALE: Kind = Kind::error("companion_stale").alerting(60);
/// Someone could not be told.
const ALERT_FAILED: Kind = Kind::error("alert_failed");
/// Word for the next tick could not be left: cooldowns and counts begin anew.
const STATE_UNWRITTEN: Kind = Kind::error("state_unwritten");

/// Cadences without a tick after which a watcher is stale.
const STALE: f64 = 2.5;
/// What a watcher's file ends with.
const LAST: &str = ".last";

/// How a tick ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// What is watched is well.
    Healthy = 0,
    /// It is not.
    Unhealthy = 1,
    /// The watcher cannot run, or a human is needed.
    CannotRun = 2,
}

/// The line of one event.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// When, in RFC 3339.
    ts: &'a str,
    level: Level,
    event: &'a str,
    /// How long the tick took.
    probe_ms: u64,
    /// Ticks in a row that ended like this one in being healthy or not.
    consecutive: u32,
    /// `mtls`, `plain`, or `none` when nothing was sent.
    transport: &'a str,
    detail: &'a str,
}

/// What a tick leaves for the next, and for the other watchers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Last {
    /// Unix seconds of the end of the tick.
    at: u64,
    /// The watcher's cadence; 0 for one that runs when someone types it.
    every_seconds: f64,
    healthy: bool,
    consecutive: u32,
    told: Told,
}

/// Who ticks: its name in files and alerts, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watcher {
    pub(crate) name: &'static str,
    /// `None` for one that nobody schedules: it calls nobody, and its silence means nothing.
    pub(crate) every: Option<Duration>,
}

/// A tick under way.
#[derive(Debug)]
pub(crate) struct Tick {
    watcher: Watcher,
    home: Option<PathBuf>,
    begun: Instant,
}

impl Tick {
    /// Begins; `home` is `None` when even that cannot be found.
    pub(crate) fn begin(watcher: Watcher, home: Option<&Path>) -> Self {
        Self { watcher, home: home.map(Path::to_owned), begun: Instant::now() }
    }

    /// Tells what was seen and says how the tick ended. Without a plan, only stderr is told.
    pub(crate) fn end(self, health: Health, transport: &str, mut events: Vec<Event>, plan: Option<&Plan>) -> Health {
        let now = OffsetDateTime::now_utc();
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let ts = now.format(&Rfc3339).unwrap_or_default();
        let state = self.home.as_deref().map(|home| State::of(home, &format!("{}{LAST}", self.watcher.name)));
        let mut last: Last = state.as_ref().map(State::read).unwrap_or_default();
        let healthy = health == Health::Healthy;
        last.consecutive = if last.healthy == healthy { last.consecutive.saturating_add(1) } else { 1 };
        last.healthy = healthy;
        last.at = seconds;
        last.every_seconds = self.watcher.every.map_or(0.0, |every| every.as_secs_f64());
        if let (Some(home), Some(_)) = (&self.home, self.watcher.every) {
            events.extend(stale(home, self.watcher.name, seconds));
            let failed = self.tell(&mut last.told, &events, &ts, seconds, plan);
            events.extend(failed.into_iter().map(|why| ALERT_FAILED.with(why)));
        }
        if let Some(Err(error)) = state.map(|state| state.write(&last)) {
            events.push(STATE_UNWRITTEN.with(error.to_string()));
        }
        let probe_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let lines: String = events
            .iter()
            .map(|event| {
                let Event { kind, detail } = event;
                let (level, event, consecutive) = (kind.level, kind.name, last.consecutive);
                let line = Line { ts: &ts, level, event, probe_ms, consecutive, transport, detail };
                serde_json::to_string(&line).expect("texts and numbers are JSON") + "\n"
            })
            .collect();
        self.write(&lines);
        health
    }

    /// Tells everyone what is due; what went wrong in that.
    fn tell(&self, told: &mut Told, events: &[Event], ts: &str, now: u64, plan: Option<&Plan>) -> Vec<String> {
        let due = told.due(events, now);
        let sinks = Sinks::of(&plan.map(|plan| plan.alerts.clone()).unwrap_or_default());
        let alert = |event: &str, level, recovered, detail: &str| {
            let host = host::name().unwrap_or_default();
            let watcher = self.watcher.name;
            let (ts, event, detail) = (ts.to_owned(), event.to_owned(), detail.to_owned());
            sinks.tell(&Alert { ts, host, watcher, level, event, recovered, detail })
        };
        let raised = due.raised.iter().flat_map(|event| alert(event.kind.name, event.kind.level, false, &event.detail));
        let mut failed: Vec<String> = raised.collect();
        failed.extend(due.recovered.iter().flat_map(|name| alert(name, Level::Info, true, "it is right again")));
        failed
    }

    /// On stdout and in the log. Neither can be allowed to matter: launchd may have closed the one, the disk may be full.
    fn write(&self, lines: &str) {
        let _ = std::io::stdout().lock().write_all(lines.as_bytes());
        if let (Some(home), Some(_)) = (&self.home, self.watcher.every) {
            let path = home.join("logs").join(format!("{}.log", self.watcher.name));
            if let Err(error) = Rotated::at(&path).append(lines.as_bytes()) {
                eprintln!("{}: cannot write {} ({error})", self.watcher.name, path.display());
            }
        }
    }
}

/// The other watchers whose last tick is too long ago at `now`. One that never ran is not installed.
fn stale(home: &Path, own: &str, now: u64) -> Vec<Event> {
    let Ok(entries) = fs::read_dir(state::folder(home)) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".last.json")?.to_owned()))
        .filter(|name| name != own)
        .collect();
    names.sort();
    let ages = names.into_iter().map(|name| {
        let last: Last = State::of(home, &format!("{name}{LAST}")).read();
        (name, now.saturating_sub(last.at), last.every_seconds)
    });
    #[allow(clippy::cast_precision_loss)] // Seconds since 1970 are far below 2^53.
    ages.filter(|(_, age, every)| *every > 0.0 && *age as f64 > every * STALE)
        .map(|(name, age, every)| {
            COMPANION_STALE.with(format!("{name} last ran {age} s ago; it should every {every} s"))
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OK: Kind = Kind::info("ok");
    const BAD: Kind = Kind::error("bad").alerting(60);

    fn watcher(name: &'static str, every: u64) -> Watcher {
        Watcher { name, every: Some(Duration::from_secs(every)) }
    }

    fn lines(home: &Path, name: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(home.join(format!("logs/{name}.log"))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn plan(home: &Path) -> Plan {
        let heard = home.join("heard");
        let mut plan = Plan::default();
        plan.alerts.command =
            ["/bin/sh", "-c", "cat >> \"$0\"; echo >> \"$0\"", heard.to_str().unwrap()].map(Into::into).to_vec();
        plan
    }

    #[test]
    fn ticks_in_a_row_are_counted_logged_and_told_once() {
        let home = tempfile::tempdir().unwrap();
        let plan = plan(home.path());
        let tick = |health, events| {
            Tick::begin(watcher("canary", 60), Some(home.path())).end(health, "mtls", events, Some(&plan))
        };
        for (health, event) in [
            (Health::Healthy, OK.with("fine")),
            (Health::Unhealthy, BAD.with("x")),
            (Health::CannotRun, BAD.with("y")),
            (Health::Healthy, OK.with("fine")),
        ] {
            assert_eq!(tick(health, vec![event]), health);
        }
        let seen = lines(home.path(), "canary");
        let counts: Vec<u64> = seen.iter().map(|line| line["consecutive"].as_u64().unwrap()).collect();
        assert_eq!(counts, [1, 1, 2, 1]);
        assert_eq!(
            (&seen[1]["event"], &seen[1]["level"], &seen[1]["transport"]),
            (&"bad".into(), &"error".into(), &"mtls".into())
        );
        let heard = fs::read_to_string(home.path().join("heard")).unwrap();
        let alerts: Vec<serde_json::Value> = heard.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(alerts.len(), 2, "{heard}");
        assert_eq!((&alerts[0]["detail"], &alerts[0]["recovered"]), (&"x".into(), &false.into()));
        assert_eq!((&alerts[1]["event"], &alerts[1]["recovered"]), (&"bad".into(), &true.into()));
    }

    #[test]
    fn a_watcher_that_stopped_is_told_by_the_others_and_one_that_nobody_schedules_is_not() {
        let home = tempfile::tempdir().unwrap();
        let by_hand = Watcher { name: "probe-http", every: None };
        Tick::begin(by_hand, Some(home.path())).end(Health::Healthy, "plain", vec![OK.with("")], None);
        Tick::begin(watcher("guardian", 60), Some(home.path())).end(Health::Healthy, "plain", vec![OK.with("")], None);
        let last: Last = State::of(home.path(), "guardian.last").read();
        assert_eq!(stale(home.path(), "canary", last.at + 150), []);
        let late = stale(home.path(), "canary", last.at + 151);
        assert_eq!(late, [COMPANION_STALE.with("guardian last ran 151 s ago; it should every 60 s")]);
        assert_eq!(stale(home.path(), "guardian", last.at + 151), [], "nobody tells on itself");
        assert!(!home.path().join("logs/probe-http.log").exists());
    }

    #[test]
    fn a_disk_that_takes_nothing_changes_no_verdict() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("state"), "").unwrap();
        fs::write(home.path().join("logs"), "").unwrap();
        let tick = Tick::begin(watcher("canary", 60), Some(home.path()));
        assert_eq!(tick.end(Health::Healthy, "plain", vec![OK.with("")], None), Health::Healthy);
        assert_eq!(
            Tick::begin(watcher("canary", 60), None).end(Health::CannotRun, "none", vec![], None),
            Health::CannotRun
        );
    }

    #[test]
    fn whom_it_could_not_tell_is_an_event() {
        let home = tempfile::tempdir().unwrap();
        let mut plan = Plan::default();
        plan.alerts.command = vec!["/nowhere/pager".into()];
        Tick::begin(watcher("canary", 60), Some(home.path())).end(
            Health::Unhealthy,
            "plain",
            vec![BAD.with("x")],
            Some(&plan),
        );
        let seen = lines(home.path(), "canary");
        assert_eq!(seen[1]["event"], "alert_failed");
        assert!(seen[1]["detail"].as_str().unwrap().starts_with("command: /nowhere/pager"), "{seen:?}");
    }
}
