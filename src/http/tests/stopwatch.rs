//! Time as this process had it. A machine that runs a compiler beside the tests may stop a process for a second; a
//! deadline of ours is not missed by that. So the time that a ticker of the same runtime lost is not counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Between two ticks.
const TICK: Duration = Duration::from_millis(5);
/// A tick that is later than this was not late by the timer's own coarseness.
const LATE: Duration = Duration::from_millis(5);

pub(super) struct Stopwatch {
    started: Instant,
    lost_us: Arc<AtomicU64>,
    ticks: Arc<AtomicU64>,
    ticker: JoinHandle<()>,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        let (lost_us, ticks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let ticker = tokio::spawn(tick(Arc::clone(&lost_us), Arc::clone(&ticks)));
        Self { started: Instant::now(), lost_us, ticks, ticker }
    }

    /// Time on the wall; for what must not happen too early.
    pub(super) fn wall(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time that this process had; for what must not happen too late.
    pub(super) async fn had(&self) -> Duration {
        let wall = self.wall();
        // A pause that ended just now is known to the ticker only after its next tick.
        let before = self.ticks.load(Ordering::Acquire);
        while self.ticks.load(Ordering::Acquire) == before {
            sleep(Duration::from_millis(1)).await;
        }
        wall.saturating_sub(Duration::from_micros(self.lost_us.load(Ordering::Acquire)))
    }

    /// The outcome of `work`, which must come within `limit` of the time that this process had since the start.
    pub(super) async fn within<T>(&self, limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                () = sleep(TICK) => {}
            }
            let had = self.had().await;
            assert!(had < limit, "{what}: not after {had:?} of {limit:?}");
        }
    }

    /// Fails if more time than `limit` has passed.
    pub(super) async fn check(&self, limit: Duration) {
        let had = self.had().await;
        assert!(had < limit, "{had:?} of {limit:?}");
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.ticker.abort();
    }
}

async fn tick(lost_us: Arc<AtomicU64>, ticks: Arc<AtomicU64>) {
    loop {
        let due = Instant::now() + TICK;
        sleep(TICK).await;
        let late = due.elapsed();
        if late > LATE {
            lost_us.fetch_add(u64::try_from(late.as_micros()).expect("a test is short"), Ordering::AcqRel);
        }
        ticks.fetch_add(1, Ordering::AcqRel);
    }
}
