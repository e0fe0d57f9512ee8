//! The life of the process: its phase, its heartbeat, its drain, its signals and its exit. It owns the rule that a
//! listener never outlives the ability to answer; it refuses to know HTTP, the engine and the model. Everything here is
//! atomics, tokens and plain OS threads, so that it works while everything else hangs.

pub mod brake;
pub mod drain;
pub mod exit;
pub mod heartbeat;
pub mod phase;
pub mod self_probe;
mod shared;
pub mod shortage;
pub mod signal;
pub mod stall;
pub mod stop;
pub mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use brake::Pause;
use drain::Drain;
use exit::{ExitCode, ExitOrders, Order};
use heartbeat::Heartbeat;
use phase::{Phase, PhaseCell};
use self_probe::SelfProbe;
use shortage::Shortage;

/// After the engine's death, in-flight requests get their answer within this; then the process is gone.
const DEATH_GRACE: Duration = Duration::from_millis(1_500);

/// What every part of the process may look at without waiting for any other part.
#[derive(Debug)]
pub struct Lifecycle {
    /// Where the process is in its life.
    pub phase: PhaseCell,
    /// Progress of the inference thread and of the async runtime.
    pub heartbeat: Heartbeat,
    /// What the idle engine answered when the process itself asked.
    pub self_probe: SelfProbe,
    /// The way down: tokens and the count of what is in flight.
    pub drain: Drain,
    /// How short the system is of memory.
    pub shortage: Shortage,
    /// Holds up a load that would be one crash more.
    pub pause: Pause,
    /// The way to the exit thread.
    pub exit: ExitOrders,
    /// Cancelled when the inference thread is gone or will never answer again.
    dead: CancellationToken,
}

impl Lifecycle {
    /// A process that has just started.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: PhaseCell::new(),
            heartbeat: Heartbeat::new(),
            self_probe: SelfProbe::new(),
            drain: Drain::new(),
            shortage: Shortage::new(),
            pause: Pause::default(),
            exit: ExitOrders::new(),
            dead: CancellationToken::new(),
        })
    }

    /// The engine is gone, for the first `reason` given: not ready at once, everyone in flight is told, and the process
    /// ends with 70 whether or not anyone co-operates.
    pub fn die(&self, reason: &str) {
        tracing::error!(reason, "the inference engine is dead");
        self.phase.advance_because(Phase::Dead, reason);
        self.exit.give(Order::By { deadline: Instant::now() + DEATH_GRACE, code: ExitCode::EngineDead });
        self.dead.cancel();
        self.drain.begin();
    }

    /// A token was generated, for whomever: the engine answers.
    pub fn token_came(&self) {
        self.heartbeat.note_token();
        self.self_probe.forgive();
    }

    /// The process itself was asleep or stopped: what was silent meanwhile is forgiven, and asked soon.
    pub(crate) fn forgive_pause(&self) {
        self.heartbeat.forgive();
        self.self_probe.ask_soon();
    }

    /// Cancelled when the engine is gone.
    #[must_use]
    pub fn dead(&self) -> &CancellationToken {
        &self.dead
    }
}

#[cfg(test)]
mod tests;
