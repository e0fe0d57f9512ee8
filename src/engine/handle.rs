//! How the rest of the process talks to the inference thread: submit without waiting, read events until the terminal
//! one. It owns the bound of the queue; it refuses to know what runs on the other side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::mpsc::error::TryRecvError;

use crate::engine::backend::Capacity;
use crate::engine::channel::{self, Commands, EventReceiver, Left};
use crate::engine::command::{Command, Place, Submission};
use crate::engine::pace::Pace;
use crate::engine::probe::{self, Asked, Slot};
use crate::job::{Event, Failure, Job, JobId};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::phase::Phase;
use crate::platform::clock;
use crate::platform::pressure::Pressure;

/// Why a job was not taken. Known at once; nothing waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full; come back after this many seconds (1–60, from measured throughput).
    QueueFull {
        /// Whole seconds for the `Retry-After` header.
        retry_after_seconds: u32,
    },
    /// The job needs more memory than there is, whatever else runs.
    TooLarge {
        /// What the model and the job's row take together.
        bytes: u64,
        /// What everything may take.
        bytes_max: u64,
    },
    /// The system is so short of memory that nothing new is begun.
    Shortage,
    /// The process cannot answer in this phase.
    NotReady(Phase),
}

/// A cheap, cloneable way to the inference thread.
#[derive(Debug, Clone)]
pub struct Handle {
    /// A place is taken in the heartbeat before a job is sent.
    commands: Commands,
    lifecycle: Arc<Lifecycle>,
    shared: Arc<Shared>,
}

/// What the inference thread publishes for everyone, besides the heartbeat.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Set once, when the model is loaded and warm.
    pub(crate) capacity: OnceLock<Capacity>,
    /// How long a job takes, for `Retry-After`.
    pub(crate) pace: Pace,
    /// Held by the one self-probe that there may be.
    probe: Slot,
    /// The next job's number.
    next_id: AtomicU64,
    /// Most jobs that may wait.
    pub(crate) queue_jobs_max: u32,
}

impl Shared {
    pub(crate) fn new(queue_jobs_max: u32) -> Self {
        let (pace, probe, next_id) = (Pace::new(), Slot::default(), AtomicU64::new(1));
        Self { capacity: OnceLock::new(), pace, probe, next_id, queue_jobs_max }
    }
}

impl Handle {
    pub(crate) fn new(commands: Commands, lifecycle: Arc<Lifecycle>, shared: Arc<Shared>) -> Self {
        Self { commands, lifecycle, shared }
    }

    /// What the model can take; `None` until it is loaded and warm.
    #[must_use]
    pub fn capacity(&self) -> Option<Capacity> {
        self.shared.capacity.get().copied()
    }

    /// A number for the next job.
    #[must_use]
    pub fn next_id(&self) -> JobId {
        JobId(self.shared.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands a job over. Never waits; the caller reads [`Events`] until the terminal one, or drops it to cancel.
    ///
    /// # Errors
    /// The queue is full, the memory too small, or the process cannot answer in its phase. Nothing was queued then.
    pub fn submit(&self, job: Job) -> Result<Events, Refusal> {
        let phase = self.lifecycle.phase.now();
        let Some(capacity) = self.capacity() else { return Err(Refusal::NotReady(phase)) };
        // During a drain the edge turns new requests away; one that was in flight before may still get its job.
        if !phase.can_answer() && phase != Phase::Draining {
            return Err(Refusal::NotReady(phase));
        }
        assert!(!job.prompt.is_empty(), "the edge refuses an empty prompt");
        assert!(job.prompt.iter().all(|token| *token < capacity.logit_width), "the edge checks token ids");
        let context = capacity.context_tokens as usize;
        assert!(job.prompt.len() + job.limits.tokens_max as usize <= context, "the edge checks the context");

        if self.lifecycle.shortage.now() == Pressure::Critical {
            return Err(Refusal::Shortage);
        }
        let memory = capacity.memory;
        let bytes = memory.fixed_bytes.saturating_add(memory.row_bytes(job.tokens()));
        if bytes > memory.bytes_max {
            return Err(Refusal::TooLarge { bytes, bytes_max: memory.bytes_max });
        }
        let Some(place) = Place::take(&self.lifecycle, self.shared.queue_jobs_max) else {
            return Err(Refusal::QueueFull { retry_after_seconds: self.retry_after_seconds() });
        };
        let (sender, receiver) = channel::events(job.limits.tokens_max);
        let submission = Box::new(Submission {
            job,
            events: sender,
            place,
            accepted: Instant::now(),
            accepted_ms: clock::awake_ms(),
        });
        match self.commands.send(Command::Submit(submission)) {
            Ok(()) => Ok(Events { receiver, lifecycle: Arc::clone(&self.lifecycle), ended: false }),
            Err(Left) => Err(Refusal::NotReady(self.lifecycle.phase.now())),
        }
    }

    /// Asks for one token behind `prompt` for the process itself, in a place of its own beside the queue. Never waits;
    /// `None` while the probe before this one is still held, and from a thread that has left.
    #[must_use]
    pub fn probe(&self, prompt: &[u32]) -> Option<Asked> {
        let capacity = self.capacity()?;
        assert!(!prompt.is_empty(), "the caller has a prompt");
        assert!(prompt.iter().all(|token| *token < capacity.logit_width), "the caller checks token ids");
        assert!(prompt.len() < capacity.context_tokens as usize, "the caller checks the context");
        let (probe, asked) = probe::ask(prompt, &self.shared.probe)?;
        self.commands.send(Command::Probe(Box::new(probe))).ok().map(|()| asked)
    }

    /// Jobs waiting now; a new one would stand behind them.
    #[must_use]
    pub fn queue_depth(&self) -> u32 {
        self.lifecycle.heartbeat.pulse().queued
    }

    /// Whole seconds, 1–60, after which the queue is expected to have moved.
    #[must_use]
    pub fn retry_after_seconds(&self) -> u32 {
        self.shared.pace.retry_after_seconds(self.queue_depth())
    }

    /// Tells the inference thread to fail what it holds, drop its arrays and end.
    pub fn stop(&self) {
        // A thread that is gone has stopped.
        let _ = self.commands.send(Command::Stop);
    }
}

/// The events of one job. Dropping it cancels the job: the engine sees the closed channel within one step.
#[derive(Debug)]
pub struct Events {
    receiver: EventReceiver,
    /// Tells when the engine is dead although its thread cannot say so itself.
    lifecycle: Arc<Lifecycle>,
    /// The terminal event was read.
    ended: bool,
}

impl Events {
    /// The next event; `None` after the terminal one. A channel that closes without one reads as a dead engine, and so
    /// does a process that was declared dead while its inference thread hangs: nobody waits for ever. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = tokio::select! {
            // Both branches are cancel-safe; the thread's own words go first.
            biased;
            event = self.receiver.recv() => event.unwrap_or_else(|| self.lost()),
            () = self.lifecycle.dead().cancelled() => self.lost(),
        };
        Some(self.note(event))
    }

    /// An event that is already there; `None` when there is none yet or the terminal one was read.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        match self.receiver.try_recv() {
            Ok(event) => Some(self.note(event)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(self.note(self.lost())),
        }
    }

    fn note(&mut self, event: Event) -> Event {
        self.ended = matches!(event, Event::Finished(_) | Event::Failed(_));
        event
    }

    /// What it means that no terminal event will come.
    fn lost(&self) -> Event {
        let phase = &self.lifecycle.phase;
        Event::Failed(match (phase.reason(), phase.now()) {
            (Some(reason), _) => Failure::EngineDead(reason),
            // The job was sent at the moment at which the thread that was told to stop looked for the last time.
            (None, Phase::Draining) => Failure::ShuttingDown,
            (None, _) => Failure::EngineDead("the job's channel closed without an end".to_owned()),
        })
    }
}
