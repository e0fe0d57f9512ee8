//! Everything that can reach the inference thread's loop, as one closed enum.

use std::time::Instant;

use crate::engine::channel::EventSender;
use crate::job::{Event, Failure, Job};

/// A message to the inference thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Generate this.
    Submit(Box<Submission>),
    /// Fail what is held, drop the arrays and end.
    Stop,
}

/// A job and the way back to the one who submitted it.
#[derive(Debug)]
pub(crate) struct Submission {
    /// What to generate.
    pub(crate) job: Job,
    /// Room for every event the job can produce; closed means cancelled.
    pub(crate) events: EventSender,
    /// When the job was accepted.
    pub(crate) accepted: Instant,
    /// The same moment on the heartbeat's clock.
    pub(crate) accepted_ms: u64,
}

impl Submission {
    /// Refuses a job that was never admitted.
    pub(crate) fn refuse(self, failure: Failure) {
        // The reader may have left; then there is nobody to tell.
        let _ = self.events.send(Event::Failed(failure));
    }
}
