//! Everything that can reach the inference thread's loop, as one closed enum.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::channel::EventSender;
use crate::engine::probe::Probe;
use crate::job::{Event, Failure, Job};
use crate::lifecycle::Lifecycle;

/// A message to the inference thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Generate this.
    Submit(Box<Submission>),
    /// Generate one token for the process itself, if no client is there.
    Probe(Box<Probe>),
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
    /// Its place in the queue, until it has a row.
    pub(crate) place: Place,
    /// When the job was accepted.
    pub(crate) accepted: Instant,
    /// The same moment on the heartbeat's clock.
    pub(crate) accepted_ms: u64,
}

impl Submission {
    /// Refuses a job that was never admitted.
    pub(crate) fn refuse(self, failure: Failure) {
        let Self { events, place, .. } = self;
        // Whoever is told finds the place free.
        drop(place);
        // The reader may have left; then there is nobody to tell.
        let _ = events.send(Event::Failed(failure));
    }
}

/// A place in the queue gauge. Whatever becomes of the job, admitted, refused or never heard of, the place is given back.
#[derive(Debug)]
pub(crate) struct Place(Arc<Lifecycle>);

impl Place {
    /// Takes a place if fewer than `jobs_max` wait. Never waits.
    pub(crate) fn take(lifecycle: &Arc<Lifecycle>, jobs_max: u32) -> Option<Self> {
        lifecycle.heartbeat.try_enqueue(jobs_max).then(|| Self(Arc::clone(lifecycle)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.heartbeat.dequeue();
    }
}
