//! Jobs accepted and not yet admitted, in the order of arrival; who is next is decided in `admit`. It owns the agreement between this list and the queue
//! gauge of the heartbeat: whoever leaves here leaves there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::command::Submission;
use crate::job::{Failure, Job};
use crate::lifecycle::Lifecycle;

/// The waiting jobs; bounded because each took a place in the heartbeat's queue gauge before it was sent here.
#[derive(Debug)]
pub(crate) struct Waiting {
    jobs: VecDeque<Submission>,
    lifecycle: Arc<Lifecycle>,
}

impl Waiting {
    pub(crate) fn new(lifecycle: Arc<Lifecycle>) -> Self {
        Self { jobs: VecDeque::new(), lifecycle }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.jobs.len()).expect("bounded by the queue limit, a u32")
    }

    pub(crate) fn push(&mut self, submission: Submission) {
        self.jobs.push_back(submission);
        self.lifecycle.heartbeat.set_queue_oldest(self.oldest_ms());
    }

    /// The jobs in the order of arrival.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().map(|submission| &submission.job)
    }

    /// The job at this place, which leaves the queue.
    pub(crate) fn take(&mut self, place: usize) -> Option<Submission> {
        let submission = self.jobs.remove(place)?;
        self.lifecycle.heartbeat.dequeue(self.oldest_ms());
        Some(submission)
    }

    /// Drops jobs whose reader has left and refuses those past their queue deadline, before a step is spent on them.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let mut kept = VecDeque::with_capacity(self.jobs.len());
        let mut left = 0;
        for submission in self.jobs.drain(..) {
            if submission.events.is_closed() {
                left += 1;
            } else if submission.job.limits.queue_deadline <= now {
                left += 1;
                submission.refuse(Failure::QueueTimeout);
            } else {
                kept.push_back(submission);
            }
        }
        self.jobs = kept;
        for _ in 0..left {
            self.lifecycle.heartbeat.dequeue(self.oldest_ms());
        }
    }

    /// Refuses everyone.
    pub(crate) fn fail_all(&mut self, failure: &Failure) {
        while let Some(submission) = self.take(0) {
            submission.refuse(failure.clone());
        }
    }

    fn oldest_ms(&self) -> u64 {
        self.jobs.front().map_or(0, |submission| submission.accepted_ms)
    }
}
