//! Whether the engine answers itself while nobody asks (P5): when a self-probe is due, what the last one found, and what
//! several misses in a row mean. It owns these as atomics that anyone reads without waiting; it refuses to know how a
//! token is asked for: `engine` generates it and `app` asks.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::lifecycle::heartbeat::Pulse;
use crate::lifecycle::stall::Verdict;
use crate::platform::clock;

/// So many misses in a row, with no token in between, and the engine is given up.
pub const MISSES_DEAD: u32 = 3;

/// When the process probes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfProbeSettings {
    /// Without a token for this long, an idle engine is asked for one.
    pub every: Duration,
    /// A token that takes longer is a miss.
    pub deadline: Duration,
}

/// What became of a self-probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A token came.
    Answered,
    /// A client came, and the probe was dropped at once (P6).
    Yielded,
    /// No token came in time.
    Missed,
    /// What came is no token.
    Failed,
}

impl Outcome {
    /// The word used on `/health` and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Yielded => "yielded",
            Self::Missed => "missed",
            Self::Failed => "failed",
        }
    }
}

/// The last self-probe, as of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Milliseconds since it ended.
    pub age_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took_ms: u64,
}

/// What the self-probes found. All times are milliseconds of [`clock::awake_ms`].
#[derive(Debug)]
pub struct SelfProbe {
    /// In a row, since the last token.
    misses: AtomicU32,
    /// One is wanted as soon as the engine is idle: the process was asleep or stopped (P10).
    soon: AtomicBool,
    /// Engine steps spent since the start.
    steps: AtomicU64,
    /// Of those, the ones spent while a client's row ran or waited; 0 unless P6 is broken.
    steps_while_clients: AtomicU64,
    /// When the last one ended, and how; held for a copy only.
    last: Mutex<Option<(u64, Outcome, u64)>>,
}

impl SelfProbe {
    pub(super) fn new() -> Self {
        Self {
            misses: AtomicU32::new(0),
            soon: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            steps_while_clients: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }

    /// One ended like this.
    pub fn note(&self, outcome: Outcome, took: Duration) {
        match outcome {
            Outcome::Answered => self.forgive(),
            Outcome::Missed | Outcome::Failed => {
                let misses = self.misses.fetch_add(1, Ordering::AcqRel) + 1;
                tracing::error!(outcome = outcome.as_str(), misses, "the idle engine does not answer a self-probe");
            }
            Outcome::Yielded => {}
        }
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        *self.last.lock() = Some((clock::awake_ms(), outcome, took_ms));
    }

    /// A token came, whoever asked for it: what was missed before counts no more.
    pub fn forgive(&self) {
        self.misses.store(0, Ordering::Release);
    }

    /// The process was asleep or stopped: misses mean nothing, and one probe is wanted soon.
    pub(crate) fn ask_soon(&self) {
        self.forgive();
        self.soon.store(true, Ordering::Release);
    }

    /// The engine spent a step on one; `clients` run or wait.
    pub(crate) fn spend_step(&self, clients: usize) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if clients > 0 {
            self.steps_while_clients.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Misses in a row.
    #[must_use]
    pub fn misses(&self) -> u32 {
        self.misses.load(Ordering::Acquire)
    }

    /// Engine steps spent since the start.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Of those, the ones spent while a client's row ran or waited.
    #[must_use]
    pub fn steps_while_clients(&self) -> u64 {
        self.steps_while_clients.load(Ordering::Relaxed)
    }

    /// The last one; `None` before the first.
    #[must_use]
    pub fn last(&self) -> Option<Last> {
        let (ended_ms, outcome, took_ms) = (*self.last.lock())?;
        Some(Last { age_ms: clock::awake_ms().saturating_sub(ended_ms), outcome, took_ms })
    }

    /// Whether one is due, `since_last` after the last one was begun. Only an idle engine is asked.
    #[must_use]
    pub fn is_due(&self, pulse: &Pulse, since_last: Duration, settings: SelfProbeSettings) -> bool {
        if pulse.running + pulse.queued > 0 {
            return false;
        }
        if self.soon.load(Ordering::Acquire) {
            return true;
        }
        if self.misses() > 0 {
            // Sooner than usual, so that three misses are known within three times the pause; not at once, so that an
            // engine whose memory was paged out meanwhile has the time to come back.
            return since_last >= settings.every / 2;
        }
        Duration::from_millis(pulse.last_token_age_ms) >= settings.every && since_last >= settings.every
    }

    /// One is begun: the wish for one is heard.
    pub fn begin(&self) {
        self.soon.store(false, Ordering::Release);
    }

    /// What the misses amount to.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.misses() {
            0 => Verdict::Moving,
            1 => Verdict::Degraded,
            misses if misses < MISSES_DEAD => Verdict::Unready,
            _ => Verdict::Dead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::heartbeat::Heartbeat;

    const SETTINGS: SelfProbeSettings =
        SelfProbeSettings { every: Duration::from_secs(60), deadline: Duration::from_secs(10) };

    fn pulse(running: u32, queued: u32, token_age_seconds: u64) -> Pulse {
        Pulse { running, queued, last_token_age_ms: token_age_seconds * 1_000, ..Heartbeat::new().pulse() }
    }

    #[test]
    fn p5_an_engine_is_asked_after_a_minute_without_a_token_and_p6_only_if_no_client_is_there() {
        let probe = SelfProbe::new();
        let due = |pulse, seconds| probe.is_due(&pulse, Duration::from_secs(seconds), SETTINGS);
        assert!(due(pulse(0, 0, 60), 60));
        assert!(!due(pulse(0, 0, 59), 600), "a client had a token just now");
        assert!(!due(pulse(0, 0, 600), 59), "one that yielded is not repeated at once");
        assert!(!due(pulse(1, 0, 600), 600) && !due(pulse(0, 1, 600), 600), "clients show what a probe would");
        probe.ask_soon();
        assert!(due(pulse(0, 0, 1), 1) && !due(pulse(1, 0, 1), 1), "p10: at once after a pause, if idle");
        probe.begin();
        assert!(!due(pulse(0, 0, 1), 1));
    }

    #[test]
    fn p5_three_misses_in_a_row_are_death_within_three_minutes_and_a_token_forgives_them() {
        let probe = SelfProbe::new();
        let mut begun_at = SETTINGS.every;
        for verdict in [Verdict::Degraded, Verdict::Unready, Verdict::Dead] {
            let ended_at = begun_at + SETTINGS.deadline;
            assert!(ended_at <= Duration::from_secs(180), "{ended_at:?} after the last token");
            probe.note(Outcome::Missed, SETTINGS.deadline);
            assert_eq!(probe.verdict(), verdict);
            assert!(!probe.is_due(&pulse(0, 0, 600), Duration::from_secs(29), SETTINGS));
            assert!(probe.is_due(&pulse(0, 0, 600), Duration::from_secs(30), SETTINGS));
            begun_at += SETTINGS.every / 2;
        }
        probe.note(Outcome::Yielded, Duration::ZERO);
        assert_eq!(probe.misses(), MISSES_DEAD, "a probe that yielded shows nothing");
        probe.forgive();
        assert_eq!(probe.verdict(), Verdict::Moving);
        probe.note(Outcome::Failed, Duration::ZERO);
        assert_eq!((probe.misses(), probe.last().map(|last| last.outcome)), (1, Some(Outcome::Failed)));
        probe.note(Outcome::Answered, Duration::from_millis(7));
        assert_eq!((probe.misses(), probe.last().map(|last| last.took_ms)), (0, Some(7)));
    }
}
