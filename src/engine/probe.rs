//! One token for the process itself (P5), through the commands and the backend that clients' tokens go through. It owns
//! the one slot that such a probe has beside the queue, so that a full queue never refuses it and it takes nobody's
//! place, and the units of its work; when it yields, `thread` decides.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::engine::backend::{Ask, Backend, Decoded, DeviceFault, RowId};
use crate::job::Sampling;
use crate::lifecycle::self_probe::Outcome;

/// What it computes is nobody's but its own.
const SCOPE: &str = "self-probe";
/// One token is asked for.
const TOKENS_MAX: u32 = 1;

/// The slot. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot(Arc<AtomicBool>);

/// Held while a probe exists, wherever it is.
#[derive(Debug)]
struct Held(Slot);

impl Slot {
    fn take(&self) -> Option<Held> {
        (!self.0.swap(true, Ordering::AcqRel)).then(|| Held(self.clone()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// The asker's end. Dropping it gives the probe up: the engine sees that before its next step.
#[derive(Debug)]
pub struct Asked {
    answer: Receiver<Outcome>,
    /// Seen by the probe for as long as someone asks.
    _asker: Arc<()>,
}

impl Asked {
    /// What became of it, if that is known within `time`. An engine that let it go without a word has missed it.
    #[must_use]
    pub fn wait(&self, time: Duration) -> Option<Outcome> {
        match self.answer.recv_timeout(time) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Outcome::Missed),
        }
    }
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Probe {
    prompt: Vec<u32>,
    /// Its name at the backend, once it is open.
    row: Option<RowId>,
    /// Prompt tokens not yet evaluated.
    prompt_left: u32,
    /// Room for the one word.
    answer: SyncSender<Outcome>,
    asker: Weak<()>,
    held: Held,
}

/// A probe and the way to hear of it; `None` while the slot is held.
pub(crate) fn ask(prompt: &[u32], slot: &Slot) -> Option<(Probe, Asked)> {
    let held = slot.take()?;
    let (sender, answer) = sync_channel(1);
    let asker = Arc::new(());
    let probe = Probe {
        prompt: prompt.to_vec(),
        row: None,
        prompt_left: 0,
        answer: sender,
        asker: Arc::downgrade(&asker),
        held,
    };
    Some((probe, Asked { answer, _asker: asker }))
}

/// What one unit of work was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A chunk of the prompt.
    Chunk,
    /// The token, or what came instead of it.
    Token(Outcome),
}

impl Probe {
    /// Tokens of prompt and answer.
    pub(crate) fn tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).expect("the prompt fits the context, which is a u32") + TOKENS_MAX
    }

    /// Whether it has a row at the backend.
    pub(crate) fn is_open(&self) -> bool {
        self.row.is_some()
    }

    /// Whether nobody waits for it any more.
    pub(crate) fn is_given_up(&self) -> bool {
        self.asker.strong_count() == 0
    }

    /// Opens and begins its row, as a client's is.
    pub(crate) fn open<B: Backend>(&mut self, row: RowId, backend: &mut B) -> Result<(), DeviceFault> {
        let (scope, sampling) = (Arc::from(SCOPE), Sampling::greedy());
        backend.open(row, Ask { tokens_max: TOKENS_MAX, ..Ask::new(&self.prompt, &scope, &sampling) });
        self.row = Some(row);
        self.prompt_left = self.tokens() - TOKENS_MAX - backend.begin(row)?;
        Ok(())
    }

    /// The next unit of work of an open row.
    pub(crate) fn step<B: Backend>(&mut self, backend: &mut B) -> Result<Unit, DeviceFault> {
        let row = self.row.expect("it was opened");
        let capacity = backend.capacity();
        if self.prompt_left > 0 {
            self.prompt_left = backend.prefill(row, capacity.prefill_chunk_tokens)?;
            return Ok(Unit::Chunk);
        }
        let decoded = backend.decode(&[row])?;
        let outcome = match decoded.as_slice() {
            [Decoded::Tokens(tokens)] if tokens.iter().all(|token| token.id < capacity.logit_width) => {
                Outcome::Answered
            }
            other => {
                tracing::error!(?other, "a self-probe got no token");
                Outcome::Failed
            }
        };
        Ok(Unit::Token(outcome))
    }

    /// Gives its row back and tells the asker.
    pub(crate) fn end<B: Backend>(self, outcome: Outcome, backend: &mut B) {
        let Self { row, answer, held, .. } = self;
        if let Some(row) = row {
            backend.close(row);
        }
        // Whoever is told finds the slot free; the asker may have left.
        drop(held);
        let _ = answer.send(outcome);
    }
}
