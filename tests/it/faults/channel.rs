//! A channel on which a fault must be told, and how soon: a watcher that ticks at its cadence, a fault that comes right
//! after a tick, which is the worst moment, and the first line of level error that names it.

use std::fmt::{self, Display, Formatter};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Cadences are so much shorter than they are; limits of a tick are as they stand in [`Channel`].
pub const SCALE: u32 = 240;

/// One watcher, or the server's own word.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    pub name: &'static str,
    /// How often it ticks in production.
    pub every: Duration,
    /// How long one of its ticks may take here.
    pub limit: Duration,
}

impl Channel {
    /// Its cadence here.
    pub fn cadence(self) -> Duration {
        self.every / SCALE
    }

    /// Within this a fault must be told.
    pub fn bound(self) -> Duration {
        (self.cadence() + self.limit).mul_f64(1.1)
    }
}

/// What goes wrong, and who must say so.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub what: &'static str,
    pub how: &'static str,
    pub channel: Channel,
    /// One of these events must be the first.
    pub events: &'static [&'static str],
    /// What the contract adds to the bound before anyone can know.
    pub patience: Duration,
}

impl Fault {
    pub const fn new(channel: Channel, what: &'static str, how: &'static str, events: &'static [&'static str]) -> Self {
        Self { what, how, channel, events, patience: Duration::ZERO }
    }

    fn bound(&self) -> Duration {
        self.channel.bound() + self.patience
    }

    /// Lets the watcher tick, injects the fault, and ticks on at its cadence until it is told or the bound is over; then
    /// mends what was injected.
    pub fn tell<T>(&self, command: impl Fn() -> Command, inject: impl FnOnce() -> T, mend: impl FnOnce(T)) -> Row {
        let begun = Instant::now();
        let before = errors(command());
        let known = before.iter().find(|event| self.events.contains(&event.as_str()));
        assert_eq!(known, None, "{}: {before:?} before anything is wrong", self.what);
        let since = Instant::now();
        let injected = inject();
        let mut due = begun + self.channel.cadence();
        let seen = loop {
            wait_until(due);
            due = (due + self.channel.cadence()).max(Instant::now());
            let told = errors(command());
            if let Some(event) = told.iter().find(|event| self.events.contains(&event.as_str())) {
                break Some((since.elapsed(), event.clone()));
            }
            if since.elapsed() > self.bound() {
                println!("{}: only {told:?} after {:?}", self.what, since.elapsed());
                break None;
            }
        };
        mend(injected);
        Row { fault: *self, seen }
    }
}

pub fn wait_until(due: Instant) {
    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

/// The events of one tick, of any level.
pub fn events(mut command: Command) -> Vec<(String, String)> {
    let ended = command.output().expect("the watcher starts");
    let said = String::from_utf8(ended.stdout).expect("UTF-8");
    let word = |line: &Value, name: &str| line[name].as_str().expect("a word").to_owned();
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
    lines.map(|line| (word(&line, "level"), word(&line, "event"))).collect()
}

/// Those of level error.
pub fn errors(command: Command) -> Vec<String> {
    events(command).into_iter().filter(|(level, _)| level == "error").map(|(_, event)| event).collect()
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    pub fault: Fault,
    /// After how long, and by which event.
    pub seen: Option<(Duration, String)>,
}

impl Row {
    /// Whether it was told, and in time.
    pub fn holds(&self) -> bool {
        self.seen.as_ref().is_some_and(|(after, _)| *after <= self.fault.bound())
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Fault { what, how, channel, .. } = self.fault;
        let seen = match &self.seen {
            Some((after, event)) => format!("{:.2} s {event}", after.as_secs_f64()),
            None => "NOT SEEN".to_owned(),
        };
        let bound = self.fault.bound().as_secs_f64();
        write!(f, "{what:32} · {how:62} · {:9} · {bound:5.2} s · {seen}", channel.name)
    }
}
