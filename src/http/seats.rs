//! How many connections may be open, and who has to leave when all seats are taken. It owns the count over all
//! listeners; at the limit the connection that has been idle longest is closed, and while every one is busy nothing is
//! accepted. A file descriptor is never asked for without a seat, so accept does not spin on `EMFILE`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::{DropLabel, Metrics};

/// While every connection is busy: until we look again for one that has become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The seats of one or more listeners.
#[derive(Debug)]
pub struct Seats {
    open: Arc<Semaphore>,
    /// TLS handshakes under way.
    pub(crate) handshakes: Semaphore,
    /// Held for an insertion, a removal or one scan of at most as many entries as there are seats.
    taken: Mutex<BTreeMap<u64, Arc<Seat>>>,
    /// Counts up; names seats and orders idleness.
    turn: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// One open connection as others see it.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Requests in flight on it.
    flights: AtomicUsize,
    /// The turn at which it last became idle.
    idle_since: AtomicU64,
    /// A request has been served on it.
    served: AtomicBool,
    /// Cancelled when it has to leave.
    pub(crate) evicted: CancellationToken,
    turn: Arc<AtomicU64>,
}

/// A taken seat; dropping it frees the seat.
#[derive(Debug)]
pub(crate) struct Seated {
    id: u64,
    pub(crate) seat: Arc<Seat>,
    pub(crate) seats: Arc<Seats>,
    /// Given back last.
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    /// Seats for `connections`, of which `half_handshakes` may be in a TLS handshake.
    #[must_use]
    pub fn new(connections: usize, half_handshakes: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            open: Arc::new(Semaphore::new(connections)),
            handshakes: Semaphore::new(half_handshakes),
            taken: Mutex::new(BTreeMap::new()),
            turn: Arc::new(AtomicU64::new(1)),
            metrics,
        })
    }

    /// A seat, as soon as there is one. Cancel-safe.
    pub(crate) async fn take(self: &Arc<Self>) -> Seated {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.open).try_acquire_owned() {
                break permit;
            }
            self.evict_one();
            let permit = tokio::time::timeout(LOOK_AGAIN, Arc::clone(&self.open).acquire_owned()).await;
            if let Ok(permit) = permit {
                break permit.expect("the semaphore of seats is never closed");
            }
        };
        let id = self.turn.fetch_add(1, Ordering::Relaxed);
        let seat = Arc::new(Seat {
            flights: AtomicUsize::new(0),
            idle_since: AtomicU64::new(id),
            served: AtomicBool::new(false),
            evicted: CancellationToken::new(),
            turn: Arc::clone(&self.turn),
        });
        self.taken.lock().insert(id, Arc::clone(&seat));
        self.metrics.connections.inc();
        Seated { id, seat, seats: Arc::clone(self), _permit: permit }
    }

    /// Tells the connection that has been idle longest to leave, if there is an idle one.
    fn evict_one(&self) {
        let taken = self.taken.lock();
        let idle = taken.values().filter(|seat| seat.is_idle() && !seat.evicted.is_cancelled());
        let Some(oldest) = idle.min_by_key(|seat| seat.idle_since.load(Ordering::Relaxed)).map(Arc::clone) else {
            return;
        };
        drop(taken);
        oldest.evicted.cancel();
        self.metrics.dropped(DropLabel::Evicted);
    }
}

impl Seat {
    /// A request arrived.
    pub(crate) fn busy(&self) {
        self.flights.fetch_add(1, Ordering::AcqRel);
        self.served.store(true, Ordering::Relaxed);
    }

    /// A response is complete.
    pub(crate) fn free(&self) {
        self.idle_since.store(self.turn.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let before = self.flights.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a seat became idle twice");
    }

    /// Whether any request came this way.
    pub(crate) fn has_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.flights.load(Ordering::Acquire) == 0
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.seats.taken.lock().remove(&self.id);
        self.seats.metrics.connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_the_longest_idle_connection_leaves_and_busy_ones_stay() {
        let seats = Seats::new(3, 1, Arc::new(Metrics::new()));
        let (first, second, third) = (seats.take().await, seats.take().await, seats.take().await);
        first.seat.busy();
        third.seat.busy();
        third.seat.free();
        let waiting = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.take().await }
        });
        second.seat.evicted.cancelled().await;
        assert!(!first.seat.evicted.is_cancelled() && !third.seat.evicted.is_cancelled());
        drop(second);
        drop(waiting.await.expect("taking a seat does not panic"));
        assert_eq!(seats.taken.lock().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_that_becomes_idle_later_is_found() {
        let seats = Seats::new(1, 1, Arc::new(Metrics::new()));
        let only = seats.take().await;
        only.seat.busy();
        let waiting = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.take().await }
        });
        tokio::time::advance(LOOK_AGAIN * 3).await;
        assert!(!only.seat.evicted.is_cancelled());
        only.seat.free();
        only.seat.evicted.cancelled().await;
        drop(only);
        drop(waiting.await.expect("taking a seat does not panic"));
    }
}
