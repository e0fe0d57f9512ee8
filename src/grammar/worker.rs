//! The thread that computes masks, so that the inference thread does not: a row is handed over with the token chosen, and
//! comes back with its next mask while the device computes the next logits. It refuses to know grammars.
//!
//! Invariants: a row is on one side at a time, so nothing is locked; a row that fails or panics fails alone; nobody waits
//! without a bound.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::grammar::compile::Compiled;
use crate::grammar::matcher::{Canceller, Row};
use crate::job::{Constraint, Mask, allows};

/// Most tasks that wait. A row has one at most, and one more when it is over.
const TASKS_MAX: usize = 256;

/// Longest wait for a mask. A step takes 10 ms at most by its fuel, and all rows may be before this one.
const MASK_WAIT: Duration = Duration::from_secs(5);

/// What the thread is given.
enum Task {
    /// A row takes a token; it is sent back with its next mask, or the reason why there is none.
    Advance { row: Box<Row>, token: u32, back: SyncSender<Result<Box<Row>, String>> },
    /// A row is over; what it holds is given back here and not on the inference thread.
    Free(Box<Row>),
    /// No more.
    Stop,
}

/// The thread. Dropping it ends the thread; rows that are still followed fail then.
#[derive(Debug)]
pub struct Worker {
    tasks: SyncSender<Task>,
    /// `None` only while it is dropped.
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start() -> std::io::Result<Self> {
        let (tasks, inbox) = sync_channel(TASKS_MAX);
        let thread = std::thread::Builder::new().name("grammar".to_owned()).spawn(move || serve(&inbox))?;
        Ok(Self { tasks, thread: Some(thread) })
    }

    /// Restricts one row to a grammar, from its beginning.
    #[must_use]
    pub fn constraint(&self, compiled: &Compiled) -> Box<dyn Constraint> {
        let mut row = compiled.row();
        let ends = Arc::clone(row.vocabulary().ends());
        let canceller = row.canceller();
        Box::new(Followed { state: State::Here(Box::new(row)), ends, canceller, tasks: self.tasks.clone() })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Waits for room while the thread works; it fails only when the thread is gone already.
        let _ = self.tasks.send(Task::Stop);
        if let Some(thread) = self.thread.take() {
            // Panics of rows are caught, so there is none to pass on.
            let _ = thread.join();
        }
    }
}

fn serve(inbox: &Receiver<Task>) {
    while let Ok(task) = inbox.recv() {
        match task {
            Task::Advance { row, token, back } => {
                let moved = catch_unwind(AssertUnwindSafe(|| advance(row, token)));
                let result = moved.unwrap_or_else(|_| Err("the grammar's matcher panicked".to_owned()));
                // Nobody waits when the row was dropped meanwhile; then it ends here.
                let _ = back.send(result);
            }
            Task::Free(row) => drop(row),
            Task::Stop => return,
        }
    }
}

fn advance(mut row: Box<Row>, token: u32) -> Result<Box<Row>, String> {
    row.advance(token)?;
    Ok(row)
}

/// A row as the inference thread holds it.
#[derive(Debug)]
struct Followed {
    state: State,
    /// The tokens that end an answer.
    ends: Mask,
    /// For what is computed that nobody waits for any more.
    canceller: Canceller,
    tasks: SyncSender<Task>,
}

/// Where a row is.
#[derive(Debug)]
enum State {
    /// Here, with a mask.
    Here(Box<Row>),
    /// With the worker.
    Away(Receiver<Result<Box<Row>, String>>),
    /// Over: an end was taken.
    Ended,
    /// It cannot go on.
    Failed(String),
}

impl Followed {
    /// The row, once the worker is done with it; `None` when there is none any more.
    fn settle(&mut self) -> Option<&Row> {
        if let State::Away(back) = &self.state {
            self.state = match back.recv_timeout(MASK_WAIT) {
                Ok(Ok(row)) => State::Here(row),
                Ok(Err(reason)) => State::Failed(reason),
                Err(RecvTimeoutError::Timeout) => {
                    self.canceller.cancel();
                    State::Failed(format!("the grammar's mask took longer than {} s", MASK_WAIT.as_secs()))
                }
                Err(RecvTimeoutError::Disconnected) => State::Failed("the grammar's worker is gone".to_owned()),
            };
        }
        match &self.state {
            State::Here(row) => Some(row),
            State::Ended | State::Failed(_) => None,
            State::Away(_) => unreachable!("it was settled above"),
        }
    }

    /// Leaves the row to the worker, or drops it here when the worker has no room.
    fn leave(&mut self, state: State) {
        if let State::Here(row) = std::mem::replace(&mut self.state, state) {
            let _ = self.tasks.try_send(Task::Free(row));
        }
    }
}

impl Constraint for Followed {
    fn accept(&mut self, token: u32) {
        let Some(row) = self.settle() else { return };
        if !allows(row.mask(), token) {
            self.leave(State::Failed(format!("token {token} is not what the grammar allows")));
            return;
        }
        if allows(&self.ends, token) {
            self.leave(State::Ended);
            return;
        }
        let (back, result) = sync_channel(1);
        if let State::Here(row) = std::mem::replace(&mut self.state, State::Away(result))
            && self.tasks.try_send(Task::Advance { row, token, back }).is_err()
        {
            self.state = State::Failed("the grammar's worker has no room or is gone".to_owned());
        }
    }

    fn mask(&mut self) -> Result<Option<Mask>, String> {
        if let Some(row) = self.settle() {
            return Ok(Some(Arc::clone(row.mask())));
        }
        match &self.state {
            State::Failed(reason) => Err(reason.clone()),
            State::Ended | State::Here(_) | State::Away(_) => Ok(Some(Arc::clone(&self.ends))),
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.canceller.cancel();
        self.leave(State::Ended);
    }
}
