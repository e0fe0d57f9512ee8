//! The life of the process: its phase, its heartbeat, its drain, its signals and its exit. It owns the rule that a
//! listener never outlives the ability to answer; it refuses to know HTTP, the engine and the model. Everything here is
//! atomics, tokens and plain OS threads, so that it works while everything else hangs.

pub mod drain;
pub mod heartbeat;
pub mod phase;

use std::sync::Arc;

use drain::Drain;
use heartbeat::Heartbeat;
use phase::PhaseCell;

/// What every part of the process may look at without waiting for any other part.
#[derive(Debug)]
pub struct Lifecycle {
    /// Where the process is in its life.
    pub phase: PhaseCell,
    /// Progress of the inference thread and of the async runtime.
    pub heartbeat: Heartbeat,
    /// The way down: tokens and the count of what is in flight.
    pub drain: Drain,
}

impl Lifecycle {
    /// A process that has just started.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { phase: PhaseCell::new(), heartbeat: Heartbeat::new(), drain: Drain::new() })
    }
}
