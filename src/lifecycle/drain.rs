//! The way down, as tokens: `begun` closes the listeners, `idle` closes every connection because nothing is in flight,
//! `cut` ends what is still in flight at the deadline. It owns the count of requests in flight and the order of the
//! tokens; it refuses to know sockets and who asked. Cancelling is idempotent, so any number of signals is one drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;

/// The tokens of one drain and the count it waits for.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Cancelled at the first request to stop: listeners close, new requests are refused.
    begun: CancellationToken,
    /// Cancelled when a drain has begun and nothing is in flight: every connection closes.
    idle: CancellationToken,
    /// Cancelled at the deadline: what is in flight gets a terminal error and ends.
    cut: CancellationToken,
    /// Requests whose response has not been handed to the kernel in full.
    in_flight: Arc<AtomicUsize>,
}

/// One request in flight; dropping it ends the flight.
#[derive(Debug)]
pub struct InFlight(Drain);

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            begun: CancellationToken::new(),
            idle: CancellationToken::new(),
            cut: CancellationToken::new(),
            in_flight: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Begins the drain; later calls change nothing.
    pub fn begin(&self) {
        self.begun.cancel();
        self.settle();
    }

    /// Ends what is still in flight; later calls change nothing.
    pub fn cut(&self) {
        self.begun.cancel();
        self.cut.cancel();
        self.settle();
    }

    /// Counts a request as in flight until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    /// Requests in flight now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Cancelled once a drain has begun.
    #[must_use]
    pub fn begun(&self) -> &CancellationToken {
        &self.begun
    }

    /// Cancelled once a drain has begun and nothing is in flight.
    #[must_use]
    pub fn idle(&self) -> &CancellationToken {
        &self.idle
    }

    /// Cancelled at the deadline.
    #[must_use]
    pub fn cut_token(&self) -> &CancellationToken {
        &self.cut
    }

    /// Closes everything if nothing is left to wait for.
    fn settle(&self) {
        if self.begun.is_cancelled() && self.in_flight() == 0 {
            self.idle.cancel();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a request left flight twice");
        self.0.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_needs_both_a_drain_and_nothing_in_flight() {
        let drain = Drain::new();
        let first = drain.enter();
        drop(drain.enter());
        assert!(!drain.idle().is_cancelled());
        drain.begin();
        assert!(drain.begun().is_cancelled() && !drain.idle().is_cancelled());
        drop(first);
        assert!(drain.idle().is_cancelled() && !drain.cut_token().is_cancelled());
    }
}
