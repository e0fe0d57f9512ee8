//! The way down, as tokens: `begun` closes the listeners, `idle` closes every connection because nothing is in flight,
//! `cut` ends what is still in flight at the deadline. It owns the count of requests in flight and the order of the
//! tokens; it refuses to know sockets and who asked. Cancelling is idempotent, so any number of signals is one drain.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio_util::sync::CancellationToken;

use crate::lifecycle::shared::{Count, Latch};

/// The tokens of one drain and the count it waits for.
#[derive(Debug, Clone)]
pub struct Drain(Arc<WayDown<CancellationToken, AtomicUsize>>);

/// One request in flight; dropping it ends the flight.
#[derive(Debug)]
pub struct InFlight(Drain);

/// The rule of a drain.
#[derive(Debug)]
pub(crate) struct WayDown<L, C> {
    /// Set at the first request to stop: listeners close, new requests are refused.
    pub(crate) begun: L,
    /// Set when a drain has begun and nothing is in flight: every connection closes.
    pub(crate) idle: L,
    /// Set at the deadline: what is in flight gets a terminal error and ends.
    pub(crate) cut: L,
    /// Requests whose response has not been handed to the kernel in full.
    in_flight: C,
}

impl<L: Latch, C: Count> WayDown<L, C> {
    /// Nothing has begun. `latch` makes one that is not set, `count` one that is zero.
    pub(crate) fn new(latch: impl Fn() -> L, count: impl FnOnce() -> C) -> Self {
        Self { begun: latch(), idle: latch(), cut: latch(), in_flight: count() }
    }

    pub(crate) fn begin(&self) {
        self.begun.set();
        self.settle();
    }

    pub(crate) fn cut(&self) {
        self.begun.set();
        self.cut.set();
        self.settle();
    }

    pub(crate) fn enter(&self) {
        self.in_flight.up();
    }

    pub(crate) fn leave(&self) {
        let before = self.in_flight.down();
        assert!(before > 0, "a request left flight twice");
        self.settle();
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.now()
    }

    /// Closes everything if nothing is left to wait for.
    fn settle(&self) {
        if self.begun.is_set() && self.in_flight.now() == 0 {
            self.idle.set();
        }
    }
}

impl Drain {
    pub(crate) fn new() -> Self {
        Self(Arc::new(WayDown::new(CancellationToken::new, || AtomicUsize::new(0))))
    }

    /// Begins the drain; later calls change nothing.
    pub fn begin(&self) {
        self.0.begin();
    }

    /// Ends what is still in flight; later calls change nothing.
    pub fn cut(&self) {
        self.0.cut();
    }

    /// Counts a request as in flight until the guard is dropped.
    #[must_use]
    pub fn enter(&self) -> InFlight {
        self.0.enter();
        InFlight(self.clone())
    }

    /// Requests in flight now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// Cancelled once a drain has begun.
    #[must_use]
    pub fn begun(&self) -> &CancellationToken {
        &self.0.begun
    }

    /// Cancelled once a drain has begun and nothing is in flight.
    #[must_use]
    pub fn idle(&self) -> &CancellationToken {
        &self.0.idle
    }

    /// Cancelled at the deadline.
    #[must_use]
    pub fn cut_token(&self) -> &CancellationToken {
        &self.0.cut
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.leave();
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
