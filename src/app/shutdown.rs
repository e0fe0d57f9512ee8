//! The way down, seen from above: the cut at the drain deadline, then the engine's arrays, then the order to exit. It
//! runs on a runtime of its own, so that blocked workers of the public one cannot keep it from cutting; if it hangs
//! itself, the exit thread ends the process all the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::engine::handle::Handle;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::exit::{ExitCode, Order};

/// What has to end before the process may.
pub(super) struct Going {
    pub(super) lifecycle: Arc<Lifecycle>,
    /// In-flight work may finish for this long.
    pub(super) drain: Duration,
    /// The listeners and their connections; each ends when the drain has begun and its connections are gone.
    pub(super) fronts: Vec<JoinHandle<()>>,
    pub(super) engine: Handle,
    pub(super) engine_ended: oneshot::Receiver<()>,
}

/// Waits for the drain to begin, carries it through and gives the order to exit.
pub(super) async fn follow(going: Going) {
    let Going { lifecycle, drain, fronts, engine, engine_ended } = going;
    lifecycle.drain.begun().cancelled().await;
    let all_gone = async {
        for front in fronts {
            // A front that panicked has no connections left either.
            let _ = front.await;
        }
    };
    tokio::pin!(all_gone);
    tokio::select! {
        // Dropping the timer is fine; the fronts are polled again below.
        biased;
        () = &mut all_gone => {}
        () = tokio::time::sleep(drain) => {
            tracing::warn!(in_flight = lifecycle.drain.in_flight(), "the drain deadline passed; cutting what is left");
            lifecycle.drain.cut();
            all_gone.await;
        }
    }
    tracing::info!("every connection is closed");
    engine.stop();
    // An error means that the thread is gone without a word; it holds nothing then.
    let _ = engine_ended.await;
    lifecycle.exit.give(Order::Now(ExitCode::Done));
}
