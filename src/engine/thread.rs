//! The inference thread: the only one that touches MLX. It owns the loop (commands, admission, one round of work,
//! progress) and the boundary at which a panic or a device fault becomes a well-formed failure of every job. It refuses
//! to wait for anyone: events go out by `try_send` into channels that have room.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crate::engine::admit::{Candidate, Room, Served};
use crate::engine::backend::{Ask, Backend, Capacity, Decoded, DeviceFault, RowId};
use crate::engine::channel::Inbox;
use crate::engine::command::Command;
use crate::engine::handle::Shared;
use crate::engine::probe::{Probe, Unit as ProbeUnit};
use crate::engine::row::{Outcome, Row};
use crate::engine::scheduler::{self, RowView};
use crate::engine::waiting::Waiting;
use crate::job::{Event, Failure, Job, Sampling, Token};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::heartbeat::Unit;
use crate::lifecycle::self_probe::Outcome as Probed;
use crate::platform::allocator;
use crate::platform::pressure::Pressure;

/// An idle thread looks up this often, to show that it is alive.
const IDLE_BEAT: Duration = Duration::from_secs(1);

/// What the backend holds is told this often while it works.
const MEMORY_BEAT: Duration = Duration::from_millis(250);

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Told to stop, or every handle is gone.
    Stopped,
    /// The device failed.
    Fault(DeviceFault),
}

/// What to do after looking at the commands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Go on with a round.
    Work,
    /// End.
    Stop,
}

/// The state of the thread. Field order is drop order: rows before the backend that holds their caches.
pub(crate) struct Inference<B: Backend> {
    rows: Vec<Row>,
    waiting: Waiting,
    /// One token for the process itself; never beside a client.
    probe: Option<Box<Probe>>,
    inbox: Inbox,
    rows_max: u32,
    /// Who got a row when.
    served: Served,
    next_row: u64,
    /// Prefill calls since the start.
    chunks: u64,
    /// Rows were closed since the backend was last told that it is idle.
    used: bool,
    /// When the backend's memory was last told.
    memory_told: Option<Instant>,
    lifecycle: Arc<Lifecycle>,
    shared: Arc<Shared>,
    backend: B,
}

impl<B: Backend> Inference<B> {
    pub(crate) fn new(backend: B, rows_max: u32, inbox: Inbox, lifecycle: Arc<Lifecycle>, shared: Arc<Shared>) -> Self {
        let rows_max = rows_max.min(backend.capacity().rows_max).max(1);
        Self {
            rows: Vec::new(),
            waiting: Waiting::new(Arc::clone(&lifecycle)),
            probe: None,
            inbox,
            rows_max,
            served: Served::default(),
            next_row: 1,
            chunks: 0,
            used: false,
            memory_told: None,
            lifecycle,
            shared,
            backend,
        }
    }

    /// What computes.
    pub(crate) fn backend(&self) -> &B {
        &self.backend
    }

    /// What computes, between two turns.
    pub(crate) fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// What the model can take.
    pub(crate) fn capacity(&self) -> Capacity {
        self.backend.capacity()
    }

    /// Generates one real token through the path that requests take; the process is not ready before this worked.
    pub(crate) fn prove(&mut self) -> Result<(), DeviceFault> {
        let row = self.fresh_row();
        let capacity = self.backend.capacity();
        self.backend.open(row, Ask::new(&[0], &Arc::from(""), &Sampling::greedy()));
        assert_eq!(self.backend.begin(row)?, 0, "something of a prompt is always evaluated");
        let left = self.backend.prefill(row, capacity.prefill_chunk_tokens)?;
        assert_eq!(left, 0, "a one-token prompt is one chunk");
        let decoded = self.backend.decode(&[row])?;
        self.backend.close(row);
        match decoded.as_slice() {
            [Decoded::Tokens(tokens)] => match tokens.iter().find(|token| token.id >= capacity.logit_width) {
                None => {
                    self.lifecycle.token_came();
                    Ok(())
                }
                Some(Token { id, .. }) => Err(DeviceFault(format!(
                    "the first token {id} is outside the vocabulary of {}",
                    capacity.logit_width
                ))),
            },
            [Decoded::Failed(reason)] => Err(DeviceFault(format!("the first token failed: {reason}"))),
            other => Err(DeviceFault(format!("one row gave {} results", other.len()))),
        }
    }

    /// Runs until told to stop. A panic or a device fault fails every job and the process: we do not limp.
    pub(crate) fn run_to_end(mut self) {
        let end = catch_unwind(AssertUnwindSafe(|| self.run()));
        let (failure, dead) = match end {
            Ok(End::Stopped) => (Failure::ShuttingDown, None),
            Ok(End::Fault(fault)) => {
                let reason = format!("device error: {fault}");
                (Failure::EngineDead(reason.clone()), Some(reason))
            }
            Err(panic) => {
                let reason = format!("panic: {}", panic_message(panic.as_ref()));
                (Failure::EngineDead(reason.clone()), Some(reason))
            }
        };
        // Not ready before anyone is told, so that nobody who was told finds a server that still claims to be ready.
        if let Some(reason) = &dead {
            self.lifecycle.die(reason);
        }
        self.fail_everyone(&failure);
        if dead.is_some() {
            // The arrays of a device that failed, or of a step that panicked, are not touched again: the process ends.
            std::mem::forget(self.backend);
        }
    }

    fn run(&mut self) -> End {
        loop {
            if self.wait() == Heard::Stop {
                return End::Stopped;
            }
            match self.turn(Instant::now()) {
                Ok(Heard::Work) => {}
                Ok(Heard::Stop) => return End::Stopped,
                Err(fault) => return End::Fault(fault),
            }
        }
    }

    /// One turn: commands that are there, those who left, a round of work.
    pub(crate) fn turn(&mut self, now: Instant) -> Result<Heard, DeviceFault> {
        if self.hear() == Heard::Stop {
            return Ok(Heard::Stop);
        }
        self.sweep(now);
        self.relieve();
        self.round()?;
        self.step_probe()?;
        self.tell_memory(now);
        Ok(Heard::Work)
    }

    /// Whether there is nothing to do but to wait for a command.
    pub(crate) fn is_idle(&self) -> bool {
        self.clients() == 0 && self.probe.is_none()
    }

    /// Rows that run and jobs that were heard and wait.
    fn clients(&self) -> usize {
        self.rows.len() + self.waiting.len() as usize
    }

    /// Waits for a command, if there is nothing to do.
    fn wait(&mut self) -> Heard {
        if !self.is_idle() {
            return Heard::Work;
        }
        if self.used {
            self.backend.idle();
            allocator::give_back_free_blocks();
            self.used = false;
        }
        match self.inbox.recv_timeout(IDLE_BEAT) {
            Ok(command) => {
                // The idle clock ends where work begins, so that a stall is measured from here.
                self.lifecycle.heartbeat.beat(Unit::Idle);
                self.obey(command)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.lifecycle.heartbeat.beat(Unit::Idle);
                Heard::Work
            }
            Err(RecvTimeoutError::Disconnected) => Heard::Stop,
        }
    }

    /// Takes every command that is there.
    fn hear(&mut self) -> Heard {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => {
                    if self.obey(command) == Heard::Stop {
                        return Heard::Stop;
                    }
                }
                Err(TryRecvError::Empty) => return Heard::Work,
                Err(TryRecvError::Disconnected) => return Heard::Stop,
            }
        }
    }

    fn obey(&mut self, command: Command) -> Heard {
        match command {
            Command::Submit(submission) => {
                self.end_probe(Probed::Yielded);
                self.waiting.push(*submission);
                Heard::Work
            }
            Command::Probe(probe) => {
                assert!(self.probe.is_none(), "there is one slot, and the probe in it holds it");
                self.probe = Some(probe);
                Heard::Work
            }
            Command::Stop => Heard::Stop,
        }
    }

    /// One unit of work for the process itself, if no client is there; if one is, the probe goes at once (P6).
    fn step_probe(&mut self) -> Result<(), DeviceFault> {
        let Some(probe) = &self.probe else { return Ok(()) };
        // The second count has those that stand in the inbox unheard.
        if self.clients() > 0 || self.lifecycle.heartbeat.queued() > 0 {
            self.end_probe(Probed::Yielded);
            return Ok(());
        }
        if probe.is_given_up() {
            self.end_probe(Probed::Missed);
            return Ok(());
        }
        self.lifecycle.self_probe.spend_step(self.clients());
        let mut probe = self.probe.take().expect("looked at above");
        if !probe.is_open() {
            let memory = self.backend.capacity().memory;
            let left = memory.rows_bytes_max().saturating_sub(memory.row_bytes(probe.tokens()));
            if self.backend.kept_bytes() > left {
                self.backend.shed(left);
            }
            probe.open(self.fresh_row(), &mut self.backend)?;
        }
        let unit = probe.step(&mut self.backend)?;
        self.probe = Some(probe);
        match unit {
            ProbeUnit::Chunk => self.lifecycle.heartbeat.beat(Unit::PrefillChunk),
            ProbeUnit::Token(outcome) => {
                self.lifecycle.heartbeat.beat(Unit::DecodeStep);
                if outcome == Probed::Answered {
                    self.lifecycle.token_came();
                }
                self.end_probe(outcome);
            }
        }
        Ok(())
    }

    /// Ends the probe, if there is one.
    fn end_probe(&mut self, outcome: Probed) {
        let Some(probe) = self.probe.take() else { return };
        self.used |= probe.is_open();
        probe.end(outcome, &mut self.backend);
    }

    /// Tells what the backend holds, for those who may not ask it.
    fn tell_memory(&mut self, now: Instant) {
        if self.memory_told.is_none_or(|told| now.saturating_duration_since(told) >= MEMORY_BEAT) {
            self.memory_told = Some(now);
            self.lifecycle.heartbeat.set_memory(self.backend.held());
        }
    }

    /// Lets those go whose readers have left, running or waiting.
    fn sweep(&mut self, now: Instant) {
        self.waiting.sweep(now);
        let cancelled: Vec<RowId> = self.rows.iter().filter(|row| row.is_cancelled()).map(|row| row.id).collect();
        for row in cancelled {
            self.close(row);
        }
    }

    /// Gives back what is kept for later, if the system is short of memory.
    fn relieve(&mut self) {
        if self.lifecycle.shortage.now() >= Pressure::Warning && self.backend.kept_bytes() > 0 {
            tracing::info!(bytes = self.backend.kept_bytes(), "dropping what finished rows left");
            self.backend.shed(0);
            self.used = true;
        }
    }

    /// One round: admit, decode all, one chunk of prompts.
    fn round(&mut self) -> Result<(), DeviceFault> {
        self.admit();
        let views: Vec<RowView> = self.rows.iter().map(Row::view).collect();
        let chunk_tokens = if views.iter().any(|view| view.prompt_left == 0) {
            self.backend.chunk_tokens_beside_decode()
        } else {
            self.backend.capacity().prefill_chunk_tokens
        };
        let round = scheduler::plan(&views, chunk_tokens, self.chunks);
        if !round.decode.is_empty() {
            self.decode(&round.decode)?;
        }
        for (row, tokens) in round.prefill {
            self.prefill(row, tokens)?;
        }
        Ok(())
    }

    /// Gives rows to those who wait, as long as there are rows and memory.
    fn admit(&mut self) {
        let memory = self.backend.capacity().memory;
        let bytes = |job: &Job| memory.row_bytes(job.tokens());
        while self.waiting.len() > 0 {
            let open: Vec<&Arc<str>> = self.rows.iter().map(|row| &row.job().scope).collect();
            let taken: u64 = self.rows.iter().map(|row| bytes(row.job())).sum();
            let left = memory.rows_bytes_max().saturating_sub(taken);
            let rows = self.rows_max - u32::try_from(open.len()).expect("bounded by rows_max, a u32");
            let waiting = self.waiting.jobs().map(|job| Candidate { scope: &job.scope, bytes: bytes(job) });
            let Some(place) = self.served.next(waiting, &open, Room { rows, bytes: left }) else { return };
            let mut submission = self.waiting.take(place).expect("the place of a waiting job");
            // What finished rows left has the memory that no open row may need.
            let left = left - bytes(&submission.job);
            if self.backend.kept_bytes() > left {
                self.backend.shed(left);
            }
            let (id, constraint) = (self.fresh_row(), submission.job.constraint.take());
            let job = &submission.job;
            let (sampling, tokens_max) = (&job.sampling, job.limits.tokens_max);
            let bucket = job.bucket.as_ref();
            let ask = Ask { prompt: &job.prompt, bucket, sampling, constraint, tokens_max };
            self.backend.open(id, ask);
            tracing::debug!(job = job.id.0, row = id.0, prompt_tokens = job.prompt.len(), "admitted");
            self.served.note(&job.scope);
            self.rows.push(Row::admit(id, submission));
            self.publish();
        }
    }

    fn decode(&mut self, ids: &[RowId]) -> Result<(), DeviceFault> {
        let decoded = self.backend.decode(ids)?;
        assert_eq!(decoded.len(), ids.len(), "each row of a step has its result");
        self.lifecycle.heartbeat.beat(Unit::DecodeStep);
        self.lifecycle.token_came();
        for (id, decoded) in ids.iter().zip(decoded) {
            let row = self.rows.iter_mut().find(|row| row.id == *id).expect("a decoded row is open");
            if row.take(decoded) == Outcome::Ended {
                self.close(*id);
            }
        }
        Ok(())
    }

    fn prefill(&mut self, id: RowId, tokens: u32) -> Result<(), DeviceFault> {
        let row = self.rows.iter_mut().find(|row| row.id == id).expect("a prefilled row is open");
        if row.begins() {
            let cached_tokens = self.backend.begin(id)?;
            tracing::debug!(job = row.job().id.0, row = id.0, cached_tokens, "begun");
            row.begin(cached_tokens);
        }
        let left = self.backend.prefill(id, tokens)?;
        self.chunks += 1;
        self.lifecycle.heartbeat.beat(Unit::PrefillChunk);
        assert!(left < row.prompt_left, "a prefill chunk evaluates at least one token");
        row.prompt_left = left;
        Ok(())
    }

    fn close(&mut self, id: RowId) {
        let index = self.rows.iter().position(|row| row.id == id).expect("a closed row was open");
        // The order of admission is kept: the scheduler reads the oldest first.
        let row = self.rows.remove(index);
        self.backend.close(row.id);
        self.shared.pace.job_took(row.open_for(), self.rows_max);
        self.used = true;
        tracing::debug!(job = row.job().id.0, row = row.id.0, "closed");
        self.publish();
    }

    fn publish(&self) {
        self.lifecycle.heartbeat.set_running(u32::try_from(self.rows.len()).expect("bounded by rows_max, a u32"));
    }

    pub(crate) fn fail_everyone(&mut self, failure: &Failure) {
        for mut row in self.rows.drain(..) {
            row.end(Event::Failed(failure.clone()));
        }
        // Commands still in the channel took a place in the queue too.
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Submit(submission) => self.waiting.push(*submission),
                // Nobody but the process waits for it, and that is on its way out.
                Command::Probe(probe) => drop(probe),
                Command::Stop => break,
            }
        }
        self.waiting.fail_all(failure);
        self.publish();
    }

    fn fresh_row(&mut self) -> RowId {
        let row = RowId(self.next_row);
        self.next_row += 1;
        row
    }
}

/// The words of a panic, as far as it has any.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(words) = panic.downcast_ref::<&str>() {
        return (*words).to_owned();
    }
    panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic without words".to_owned())
}
