//! Jobs accepted and not yet admitted, in the order of arrival; who is next is decided in `admit`. It owns what the
//! heartbeat says of the oldest; how many wait is counted by the places they hold.

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

    /// The job at this place, which leaves the list.
    pub(crate) fn take(&mut self, place: usize) -> Option<Submission> {
        let submission = self.jobs.remove(place)?;
        self.lifecycle.heartbeat.set_queue_oldest(self.oldest_ms());
        Some(submission)
    }

    /// Drops jobs whose reader has left and refuses those past their queue deadline, before a step is spent on them.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let before = self.jobs.len();
        let mut kept = VecDeque::with_capacity(before);
        for submission in self.jobs.drain(..) {
            if submission.events.is_closed() {
                continue;
            }
            if submission.job.limits.queue_deadline <= now {
                submission.refuse(Failure::QueueTimeout);
            } else {
                kept.push_back(submission);
            }
        }
        let has_left = kept.len() < before;
        self.jobs = kept;
        if has_left {
            self.lifecycle.heartbeat.set_queue_oldest(self.oldest_ms());
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
