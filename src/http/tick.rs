//! The pulse of the async runtime (P8): a timer that is late tells that a worker was blocked. It runs on the runtime
//! that it watches; the watch thread reads the age of its last tick and needs no one's co-operation.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::http::State;

/// Between two ticks; each wakes the processor twice, so more of them would keep an idle laptop from its rest.
pub const TICK: Duration = Duration::from_secs(1);
/// Later than this is counted.
const LATE: Duration = Duration::from_millis(100);
/// Later than this is logged.
const VERY_LATE: Duration = Duration::from_secs(1);

/// Ticks until the drain is over.
pub async fn run(state: Arc<State>) {
    let drain = &state.lifecycle.drain;
    loop {
        let due = Instant::now() + TICK;
        tokio::select! {
            biased;
            () = drain.idle().cancelled() => return,
            () = drain.cut_token().cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
        }
        let late = due.elapsed();
        state.lifecycle.heartbeat.tick_runtime();
        state.metrics.runtime_tick_lateness_seconds.set(late.as_secs_f64());
        if late > LATE {
            state.metrics.runtime_late_ticks.inc();
        }
        if late > VERY_LATE {
            tracing::warn!(late_seconds = late.as_secs_f64(), "the async runtime was blocked");
        }
    }
}
