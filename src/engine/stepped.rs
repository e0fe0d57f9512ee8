//! The engine without its thread: the same loop, one turn a call, at a moment that the caller names. For simulations, which
//! need to know what happened between two turns, and for whoever measures a turn.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::backend::{Backend, DeviceFault};
use crate::engine::handle::{Handle, Shared};
use crate::engine::thread::{Heard, Inference};
use crate::engine::{EngineSettings, channel};
use crate::job::Failure;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::phase::Phase;

/// The engine's loop.
pub struct Stepped<B: Backend> {
    inference: Inference<B>,
}

impl<B: Backend> Stepped<B> {
    /// An engine that is ready, and the way to submit.
    #[must_use]
    pub fn new(settings: EngineSettings, lifecycle: &Arc<Lifecycle>, backend: B) -> (Self, Handle) {
        let (commands, inbox) = channel::commands(settings.queue_jobs_max);
        let shared = Arc::new(Shared::new(settings.queue_jobs_max));
        shared.capacity.set(backend.capacity()).expect("set once");
        lifecycle.phase.advance(Phase::Ready);
        let handle = Handle::new(commands, Arc::clone(lifecycle), Arc::clone(&shared));
        let inference = Inference::new(backend, settings.rows_max, inbox, Arc::clone(lifecycle), shared);
        (Self { inference }, handle)
    }

    /// Takes the commands, lets those go who left, and does one round of work. Whether there is more to do.
    ///
    /// # Errors
    /// The device failed; everyone was told.
    pub fn turn(&mut self, now: Instant) -> Result<bool, DeviceFault> {
        match self.inference.turn(now) {
            Ok(Heard::Work) => Ok(!self.inference.is_idle()),
            Ok(Heard::Stop) => Ok(false),
            Err(fault) => {
                self.inference.fail_everyone(&Failure::EngineDead(fault.to_string()));
                Err(fault)
            }
        }
    }

    /// The backend, to look at between two turns.
    pub fn backend(&self) -> &B {
        self.inference.backend()
    }

    /// The backend, to change between two turns.
    pub fn backend_mut(&mut self) -> &mut B {
        self.inference.backend_mut()
    }
}

impl<B: Backend> std::fmt::Debug for Stepped<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepped").field("idle", &self.inference.is_idle()).finish()
    }
}
