//! The seams of the engine: the moments at which what one thread does meets what another does. In the product they are
//! nothing. In the tests of the crate a model checker may take each as the moment to let another thread go on (V3), so
//! what it runs is the code that ships.

use std::time::Duration;

/// Another thread may come in between, here.
pub(super) fn cross() {
    #[cfg(test)]
    modelled::schedule(modelled::Seam::Crossed);
}

/// How long a thread that has nothing to do really waits: under a model checker, which has no time, not at all.
pub(super) fn patience(time: Duration) -> Duration {
    #[cfg(test)]
    if modelled::schedule(modelled::Seam::Idle) {
        return Duration::ZERO;
    }
    time
}

#[cfg(test)]
pub(super) mod modelled {
    use std::cell::Cell;

    /// What a thread is about to do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::engine) enum Seam {
        /// Something that other threads see.
        Crossed,
        /// Wait: it has nothing to do.
        Idle,
    }

    thread_local! {
        /// A model checker runs all its threads on one thread of the system, which is also the only one that it concerns.
        static SCHEDULE: Cell<Option<fn(Seam)>> = const { Cell::new(None) };
    }

    /// Asks the checker, if one runs, who goes on; says whether one runs.
    pub(super) fn schedule(seam: Seam) -> bool {
        // While a test that failed unwinds, its threads are not scheduled any more.
        let checker = SCHEDULE.get().filter(|_| !std::thread::panicking());
        checker.inspect(|schedule| schedule(seam)).is_some()
    }

    /// Runs `model`, whose seams ask `schedule`.
    pub(in crate::engine) fn under(schedule: fn(Seam), model: impl FnOnce()) {
        SCHEDULE.set(Some(schedule));
        model();
        SCHEDULE.set(None);
    }
}
