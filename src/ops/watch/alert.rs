//! Who is told when something breaks and when it is right again. It owns the cooldown of each kind, one "recovered" for
//! each that was told, and the sinks, each tried on its own: one that hangs or fails keeps no other from telling.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::Agent;

use crate::ops::watch::event::{Event, Level};
use crate::ops::watch::plan::Alerts;
use crate::platform::child;

/// How long one try of a webhook may take.
const WEBHOOK_LIMIT: Duration = Duration::from_secs(10);
/// Pauses before the second and the third try.
const WEBHOOK_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// How long a program may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Characters of a notification that a desktop shows.
#[cfg(target_os = "macos")]
const NOTIFICATION_CHARS_MAX: usize = 240;

/// What a sink is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Alert {
    /// When, in RFC 3339.
    pub(crate) ts: String,
    /// The machine.
    pub(crate) host: String,
    /// Which watcher says so.
    pub(crate) watcher: &'static str,
    pub(crate) level: Level,
    /// The kind of event.
    pub(crate) event: String,
    /// Whether it is right again.
    pub(crate) recovered: bool,
    pub(crate) detail: String,
}

impl Alert {
    /// For a person, in one line.
    pub(crate) fn line(&self) -> String {
        let state = if self.recovered { "recovered" } else { "ALERT" };
        format!("{state}: {} on {}, says {}: {}", self.event, self.host, self.watcher, self.detail)
    }
}

/// Which kinds were told and when (Unix seconds), kept from tick to tick.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Told(BTreeMap<String, u64>);

/// What must be told after a tick.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Events whose kind was not told within its cooldown.
    pub(crate) raised: Vec<Event>,
    /// Kinds that were told and did not happen this time.
    pub(crate) recovered: Vec<String>,
}

impl Told {
    /// Judges what a tick saw at `now` (Unix seconds) and remembers it as told. A clock that was set back holds nothing
    /// back for longer than the cooldown.
    pub(crate) fn due(&mut self, events: &[Event], now: u64) -> Due {
        let mut due = Due::default();
        for event in events {
            let Some(cooldown) = event.kind.cooldown else { continue };
            let name = event.kind.name;
            let quiet = self.0.get(name).is_some_and(|told| *told <= now && now - told < cooldown.as_secs());
            // Several of a kind in one tick are one trouble with several names: all are told.
            if !quiet || due.raised.iter().any(|raised| raised.kind == event.kind) {
                due.raised.push(event.clone());
                self.0.insert(name.to_owned(), now);
            }
        }
        let happened = |name: &String| events.iter().any(|event| event.kind.name == name);
        due.recovered = self.0.keys().filter(|name| !happened(name)).cloned().collect();
        self.0.retain(|name, _| happened(name));
        due
    }
}

/// One way to tell someone.
#[derive(Debug)]
enum Sink {
    Stderr,
    Webhook(String),
    Command(Vec<std::path::PathBuf>),
    #[cfg(target_os = "macos")]
    Notification,
}

impl Sink {
    fn name(&self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Webhook(_) => "webhook",
            Self::Command(_) => "command",
            #[cfg(target_os = "macos")]
            Self::Notification => "notification",
        }
    }

    fn tell(&self, alert: &Alert) -> Result<(), String> {
        match self {
            Self::Stderr => {
                eprintln!("{}", alert.line());
                Ok(())
            }
            Self::Webhook(url) => post(url, alert),
            Self::Command(words) => command(words, alert),
            #[cfg(target_os = "macos")]
            Self::Notification => notify(alert),
        }
    }
}

/// All ways to tell someone.
#[derive(Debug)]
pub(crate) struct Sinks(Vec<Sink>);

impl Sinks {
    /// What the plan names, and stderr.
    pub(crate) fn of(plan: &Alerts) -> Self {
        let mut sinks = vec![Sink::Stderr];
        sinks.extend(plan.webhook.clone().map(Sink::Webhook));
        if !plan.command.is_empty() {
            sinks.push(Sink::Command(plan.command.clone()));
        }
        #[cfg(target_os = "macos")]
        sinks.extend(plan.notification.then_some(Sink::Notification));
        Self(sinks)
    }

    /// Tells all at once; returns `SINK: why` for each that failed.
    pub(crate) fn tell(&self, alert: &Alert) -> Vec<String> {
        thread::scope(|scope| {
            let tellers: Vec<_> = self.0.iter().map(|sink| (sink.name(), scope.spawn(|| sink.tell(alert)))).collect();
            let ends = tellers.into_iter().map(|(name, teller)| (name, teller.join()));
            ends.filter_map(|(name, end)| match end {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(format!("{name}: {why}")),
                Err(_) => Some(format!("{name}: panicked")),
            })
            .collect()
        })
    }
}

fn post(url: &str, alert: &Alert) -> Result<(), String> {
    let body = serde_json::to_vec(alert).map_err(|error| error.to_string())?;
    let agent: Agent = Agent::config_builder().timeout_global(Some(WEBHOOK_LIMIT)).build().new_agent();
    let mut pauses = WEBHOOK_PAUSES.iter();
    loop {
        match agent.post(url).header("content-type", "application/json").send(&body[..]) {
            Ok(_) => return Ok(()),
            Err(error) => match pauses.next() {
                Some(pause) => thread::park_timeout(*pause),
                None => return Err(format!("{url}: {error}, three times")),
            },
        }
    }
}

fn command(words: &[std::path::PathBuf], alert: &Alert) -> Result<(), String> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    let body = serde_json::to_vec(alert).map_err(|error| error.to_string())?;
    let ended = child::run(Command::new(program).args(arguments), &body, COMMAND_LIMIT);
    let ended = ended.map_err(|error| error.to_string())?;
    if ended.status.success() { Ok(()) } else { Err(format!("{}: {}", program.display(), ended.words())) }
}

/// Apple's script gets the text as an argument, never as a part of the script: a detail may hold quotes.
#[cfg(target_os = "macos")]
fn notify(alert: &Alert) -> Result<(), String> {
    const SCRIPT: &str = "on run argv\ndisplay notification (item 1 of argv) with title \"sanctum-mlx\"\nend run";
    let text: String = alert.line().chars().take(NOTIFICATION_CHARS_MAX).collect();
    let ended = child::run(Command::new("/usr/bin/osascript").args(["-e", SCRIPT, &text]), b"", COMMAND_LIMIT);
    let ended = ended.map_err(|error| error.to_string())?;
    if ended.status.success() { Ok(()) } else { Err(format!("osascript: {}", ended.words())) }
}

#[cfg(test)]
#[path = "alert_tests.rs"]
mod tests;
