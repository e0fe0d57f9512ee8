//! Where the process is in its life, as one atomic that anyone may read at any time. It owns which phase may follow
//! which; a phase never goes back out of `Draining` or `Dead`, so no late writer can revive a process that is leaving.

use std::fmt;
use std::sync::atomic::AtomicU8;

use parking_lot::Mutex;

use crate::lifecycle::shared::AtomicByte;

/// The phases of `/health`, in the order of a good life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// Reading the configuration; nothing is bound.
    Starting = 0,
    /// Listening; the starts before this one ended badly too often, and nothing is loaded for a while.
    CrashLoop = 1,
    /// Listening; weights are being read or warm-up runs.
    Loading = 2,
    /// One real token was generated and the engine makes progress.
    Ready = 3,
    /// Work is pending and nothing moved for the first stall limit; still answering.
    Degraded = 4,
    /// Nothing moved for the second stall limit; no longer ready.
    Stalled = 5,
    /// Told to stop; listeners are closed, in-flight work may finish.
    Draining = 6,
    /// The inference thread is gone; the process is about to exit non-zero.
    Dead = 7,
}

impl Phase {
    const ALL: [Self; 8] = [
        Self::Starting,
        Self::CrashLoop,
        Self::Loading,
        Self::Ready,
        Self::Degraded,
        Self::Stalled,
        Self::Draining,
        Self::Dead,
    ];

    /// The word used on the wire and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::CrashLoop => "crash_loop",
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stalled => "stalled",
            Self::Draining => "draining",
            Self::Dead => "dead",
        }
    }

    /// Whether a request accepted now can be expected to be answered.
    #[must_use]
    pub fn can_answer(self) -> bool {
        match self {
            Self::Ready | Self::Degraded => true,
            Self::Starting | Self::CrashLoop | Self::Loading | Self::Stalled | Self::Draining | Self::Dead => false,
        }
    }

    /// Whether `next` may follow: leaving is final, and only the dead come after the draining.
    fn may_become(self, next: Self) -> bool {
        match self {
            Self::Dead => false,
            Self::Draining => next == Self::Dead,
            Self::Starting | Self::CrashLoop | Self::Loading | Self::Ready | Self::Degraded | Self::Stalled => true,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The current phase and, for a dead engine, the reason.
#[derive(Debug)]
pub struct PhaseCell {
    step: Step<AtomicU8>,
    /// Why the phase is `CrashLoop`, `Stalled` or `Dead`; held for an assignment or a clone only.
    reason: Mutex<Option<String>>,
}

/// Which phase it is, and which may follow.
#[derive(Debug)]
pub(crate) struct Step<A>(A);

impl<A: AtomicByte> Step<A> {
    /// The first phase. `byte` makes an atomic.
    pub(crate) fn first(byte: impl FnOnce(u8) -> A) -> Self {
        Self(byte(Phase::Starting as u8))
    }

    pub(crate) fn now(&self) -> Phase {
        Phase::ALL[usize::from(self.0.load())]
    }

    /// Moves to `next` if that may follow; says from where it did.
    pub(crate) fn advance(&self, next: Phase) -> Option<Phase> {
        loop {
            let now = self.now();
            if !now.may_become(next) {
                return None;
            }
            if self.advance_from(now, next) {
                return Some(now);
            }
        }
    }

    pub(crate) fn advance_from(&self, from: Phase, next: Phase) -> bool {
        self.0.replace(from as u8, next as u8)
    }
}

impl PhaseCell {
    pub(crate) fn new() -> Self {
        Self { step: Step::first(AtomicU8::new), reason: Mutex::new(None) }
    }

    /// The phase now.
    #[must_use]
    pub fn now(&self) -> Phase {
        self.step.now()
    }

    /// Moves to `next` if that may follow; says whether it did.
    pub fn advance(&self, next: Phase) -> bool {
        self.step.advance(next).is_some()
    }

    /// Begins to leave; says from which phase, at the moment of leaving it. `None` when leaving already.
    pub(crate) fn leave(&self) -> Option<Phase> {
        self.step.advance(Phase::Draining)
    }

    /// Moves to `next` only from `from`; used by the watch thread, which must not overtake a drain.
    pub fn advance_from(&self, from: Phase, next: Phase) -> bool {
        self.step.advance_from(from, next)
    }

    /// Moves to `next` and records why; the first reason stays.
    pub fn advance_because(&self, next: Phase, reason: &str) -> bool {
        self.reason.lock().get_or_insert_with(|| reason.to_owned());
        self.advance(next)
    }

    /// Leaves `CrashLoop`, and its reason with it; a drain in between wins.
    pub fn leave_crash_loop(&self) {
        if self.advance_from(Phase::CrashLoop, Phase::Loading) {
            *self.reason.lock() = None;
        }
    }

    /// Why the process does not load, is stalled or dead, if it is.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_phase_follows_dead_and_only_dead_follows_draining() {
        for next in Phase::ALL {
            assert!(!Phase::Dead.may_become(next));
            assert_eq!(Phase::Draining.may_become(next), next == Phase::Dead);
        }
    }

    #[test]
    fn a_late_ready_cannot_revive_a_draining_process() {
        let cell = PhaseCell::new();
        assert!(cell.advance(Phase::Loading));
        assert!(cell.advance(Phase::Draining));
        assert!(!cell.advance(Phase::Ready));
        assert_eq!(cell.now(), Phase::Draining);
    }
}
