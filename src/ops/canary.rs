//! The canary: the model graph answers, and correctly. A failed try is repeated once in the same tick, so that a blink
//! calls nobody; then someone is called at once. It owns when a full queue or a shaky server is worth a call; it never
//! restarts anything.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::args::CanaryArgs;
use crate::config::home;
use crate::ops::fallback::lock::{self, Lock};
use crate::ops::look::{self, Seen};
use crate::ops::state::State;
use crate::ops::watch::event::{Event, Kind};
use crate::ops::watch::plan::Plan;
use crate::ops::watch::tick::{Health, Tick, Watcher};

const OK: Kind = Kind::info("canary_ok");
/// The second try was right.
const BLINKED: Kind = Kind::warn("canary_blinked");
/// Both tries failed.
const FAILED: Kind = Kind::error("canary_failed").alerting(30);
/// [`SHAKY_MIN`] of the last [`REMEMBERED`] ticks had a failed try.
const SHAKY: Kind = Kind::error("canary_shaky").alerting(60);
/// The queue was full.
const BUSY: Kind = Kind::warn("canary_busy");
/// The queue was full [`BUSY_MIN`] ticks in a row.
const STARVED: Kind = Kind::error("canary_starved").alerting(60);
const CANNOT_RUN: Kind = Kind::error("canary_cannot_run").alerting(60);

/// Ticks that the next one knows of, itself included.
const REMEMBERED: usize = 6;
const SHAKY_MIN: usize = 3;
const BUSY_MIN: usize = 3;

/// How a tick went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Went {
    Well,
    Busy,
    Blinked,
    Failed,
}

/// One tick: asks, tells, and says how it ended.
#[must_use]
pub fn run(args: &CanaryArgs) -> Health {
    let every = Some(Duration::from_secs(args.every_seconds));
    let home = home::root(args.server.root.home.as_deref());
    let tick = Tick::begin(Watcher { name: "canary", every }, home.as_deref().ok());
    let prepared = home.map_err(anyhow::Error::from).and_then(|home| {
        let plan = Plan::of(&home)?;
        let (target, lock) = lock::retarget(&home, &args.server)?;
        let client = target.client(look::limit(args.timeout_seconds, look::CHAT_LIMIT)?)?;
        Ok((home, plan, (target, lock), client))
    });
    let (home, plan, (target, lock), client) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            return tick.end(Health::CannotRun, "none", vec![CANNOT_RUN.with(format!("{error:#}"))], None);
        }
    };
    let ask = || look::chat(&client, &plan.canary.question, &plan.canary.expected);
    let first = ask();
    let second = matches!(first, Seen::Failed(_)).then(|| {
        thread::park_timeout(Duration::from_secs(args.retry_seconds));
        ask()
    });
    let state = State::of(&home, "canary");
    let mut past: Vec<Went> = state.read();
    let (health, mut events) = judge(first, second, &mut past);
    if let Err(error) = state.write(&past) {
        events.push(CANNOT_RUN.with(format!("the past is lost: {error}")));
    }
    events.extend(lock.as_ref().map(Lock::event));
    tick.end(health, target.transport(), events, Some(&plan))
}

/// What two tries mean after the ticks of the past, to which this one is added.
fn judge(first: Seen, second: Option<Seen>, past: &mut Vec<Went>) -> (Health, Vec<Event>) {
    let (health, went, event) = match (first, second) {
        (Seen::Fine(detail), _) => (Health::Healthy, Went::Well, OK.with(detail)),
        (Seen::Busy(detail), _) => (Health::Unhealthy, Went::Busy, BUSY.with(detail)),
        (Seen::CannotLook(detail), _) | (_, Some(Seen::CannotLook(detail))) => {
            return (Health::CannotRun, vec![CANNOT_RUN.with(detail)]);
        }
        (Seen::Failed(first), Some(Seen::Fine(detail))) => {
            (Health::Healthy, Went::Blinked, BLINKED.with(format!("first {first}, then {detail}")))
        }
        (Seen::Failed(first), Some(Seen::Busy(detail))) => {
            (Health::Unhealthy, Went::Blinked, BUSY.with(format!("first {first}, then {detail}")))
        }
        (Seen::Failed(detail), None) => (Health::Unhealthy, Went::Failed, FAILED.with(detail)),
        (Seen::Failed(first), Some(Seen::Failed(detail))) => {
            (Health::Unhealthy, Went::Failed, FAILED.with(format!("{detail}; the try before: {first}")))
        }
    };
    past.push(went);
    past.drain(..past.len().saturating_sub(REMEMBERED));
    let mut events = vec![event];
    let failed = past.iter().filter(|went| matches!(went, Went::Blinked | Went::Failed)).count();
    if failed >= SHAKY_MIN {
        events.push(SHAKY.with(format!("{failed} of the last {} ticks had a failed try", past.len())));
    }
    let busy = past.iter().rev().take_while(|went| **went == Went::Busy).count();
    if busy >= BUSY_MIN {
        events.push(STARVED.with(format!("the queue was full {busy} ticks in a row")));
    }
    (health, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Seen {
        Seen::Fine("4".to_owned())
    }

    fn bad() -> Seen {
        Seen::Failed("5".to_owned())
    }

    fn busy() -> Seen {
        Seen::Busy("429".to_owned())
    }

    fn names(ticks: &[(Seen, Option<Seen>)]) -> Vec<String> {
        let mut past = Vec::new();
        let each = ticks.iter().map(|(first, second)| {
            let (health, events) = judge(first.clone(), second.clone(), &mut past);
            let names: Vec<&str> = events.iter().map(|event| event.kind.name).collect();
            format!("{} {}", health as u8, names.join(" "))
        });
        each.collect()
    }

    #[test]
    fn two_failed_tries_alert_at_once_and_one_does_not() {
        assert!(FAILED.cooldown.is_some() && BLINKED.cooldown.is_none() && BUSY.cooldown.is_none());
        let seen = names(&[(fine(), None), (bad(), Some(fine())), (bad(), Some(bad()))]);
        assert_eq!(seen, ["0 canary_ok", "0 canary_blinked", "1 canary_failed"]);
    }

    #[test]
    fn three_of_six_ticks_with_a_failed_try_alert_and_older_ones_are_forgotten() {
        let blink = || (bad(), Some(fine()));
        let well = || (fine(), None);
        let seen = names(&[blink(), well(), blink(), well(), well(), blink(), well(), well()]);
        assert_eq!(seen[5], "0 canary_blinked canary_shaky");
        assert_eq!(seen[6..], ["0 canary_ok", "0 canary_ok"]);
    }

    #[test]
    fn a_full_queue_alerts_after_three_in_a_row() {
        let full = || (busy(), None);
        let seen = names(&[full(), full(), (fine(), None), full(), full(), full()]);
        assert_eq!(seen[1], "1 canary_busy");
        assert_eq!(seen[4..], ["1 canary_busy", "1 canary_busy canary_starved"]);
    }

    #[test]
    fn one_that_cannot_look_leaves_the_past_alone() {
        let mut past = vec![Went::Failed];
        let (health, events) = judge(Seen::CannotLook("no certificate".to_owned()), None, &mut past);
        assert_eq!((health, past.len(), events[0].kind), (Health::CannotRun, 1, &CANNOT_RUN));
    }
}
