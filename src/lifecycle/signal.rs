//! The signal thread: it waits for the signals of the process and turns each into one act. It owns
//! which signal means what; it refuses to wait for anyone but the kernel.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lifecycle::Lifecycle;
use crate::lifecycle::exit::{ExitCode, Order};
use crate::lifecycle::phase::Phase;
use crate::lifecycle::stop::{Action, Request, Stop};
use crate::platform::signals::{Caught, Signal};
use crate::platform::threads;

/// How long a drain may take.
#[derive(Debug, Clone, Copy)]
pub struct DrainLimits {
    /// In-flight work may finish for this long; then it is cut and told.
    pub drain: Duration,
    /// After the cut the process is forced to end this much later.
    pub exit_grace: Duration,
}

/// Starts the thread.
///
/// # Errors
/// The system gives no thread.
pub fn start(mut signals: Caught, limits: DrainLimits, lifecycle: Arc<Lifecycle>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("signal".to_owned()).spawn(move || {
        let stop = Stop::new();
        loop {
            match signals.wait() {
                Signal::Terminate => obey(stop.request(Request::Terminate), limits, &lifecycle),
                Signal::Interrupt => obey(stop.request(Request::Interrupt), limits, &lifecycle),
                Signal::HangUp => hang_up(&lifecycle),
                Signal::User1 => dump_threads("SIGUSR1", &lifecycle),
            }
        }
    })
}

/// A person has mended what made the starts fail.
fn hang_up(lifecycle: &Lifecycle) {
    if lifecycle.phase.now() == Phase::CrashLoop {
        lifecycle.pause.end();
    } else {
        tracing::warn!("SIGHUP: nothing is reloaded yet; restart to apply changes");
    }
}

fn obey(action: Action, limits: DrainLimits, lifecycle: &Lifecycle) {
    match action {
        Action::Nothing => tracing::info!("told to stop again; the drain deadline stands"),
        Action::LeaveNow => lifecycle.exit.give(Order::Now(ExitCode::Interrupted)),
        Action::BeginDrain => {
            let deadline = Instant::now() + limits.drain + limits.exit_grace;
            let was = lifecycle.phase.leave().unwrap_or(Phase::Dead);
            lifecycle.exit.give(Order::By { deadline, code: ExitCode::Forced });
            lifecycle.drain.begin();
            tracing::info!(from = %was, drain_seconds = limits.drain.as_secs_f64(), "told to stop; draining");
            match was {
                // Nothing was promised to anyone yet, and a load cannot be interrupted.
                Phase::Starting | Phase::CrashLoop | Phase::Loading => lifecycle.exit.give(Order::Now(ExitCode::Done)),
                Phase::Ready | Phase::Degraded | Phase::Stalled | Phase::Draining | Phase::Dead => {}
            }
        }
    }
}

/// Writes one line a thread and the heartbeat to the log.
pub(crate) fn dump_threads(why: &str, lifecycle: &Lifecycle) {
    let pulse = lifecycle.heartbeat.pulse();
    tracing::warn!(
        why,
        unit = pulse.unit.as_str(),
        last_progress_age_ms = pulse.last_progress_age_ms,
        running = pulse.running,
        queued = pulse.queued,
        queue_oldest_age_ms = pulse.queue_oldest_age_ms,
        in_flight = lifecycle.drain.in_flight(),
        "thread dump: heartbeat"
    );
    for line in threads::describe() {
        tracing::warn!("thread dump: {line}");
    }
}
