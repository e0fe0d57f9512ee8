//! The one trait at which the request stack and the model stack meet. The engine drives a [`Backend`] on the inference
//! thread, one bounded unit of work per call; it knows rows and token ids, never arrays. The real backend is
//! `runner::Runner`; fault injection and the simulator stand behind the same trait.

use std::sync::Arc;

use crate::job::Sampling;

/// A row's name, unique for the life of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub u64);

/// What the loaded model can take, fixed after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Most tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Width of the logits; every token id is below it.
    pub logit_width: u32,
    /// Rows that may be open at once.
    pub rows_max: u32,
    /// Prompt tokens evaluated per [`Backend::prefill`] call, sized at warm-up to take about 100 ms.
    pub prefill_chunk_tokens: u32,
}

/// What one step produced for one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// The next token of the row.
    Token(u32),
    /// This row cannot go on (NaN logits, say); the others are untouched.
    Failed(String),
}

/// The device or the process cannot go on. Every row is lost, and the process ends non-zero: we do not limp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceFault(pub String);

/// A loaded model that can run many rows. Called by one thread only, the one that built it and that drops it.
///
/// A row is opened with its whole prompt, prefilled in chunks until [`Backend::prefill`] says that it is complete, then
/// decoded. After each call a row's recorded tokens equal the tokens in its cache, whether or not it is closed next.
pub trait Backend {
    /// What the model can take; constant.
    fn capacity(&self) -> Capacity;

    /// Opens a row; evaluates nothing. `prompt` is not empty and fits the context. Returns how many of its first tokens
    /// need not be evaluated, because what an earlier row of the same `scope` left is used again; fewer than all.
    ///
    /// # Errors
    /// The device failed; nothing can go on.
    fn open(&mut self, row: RowId, prompt: &[u32], scope: &Arc<str>, sampling: &Sampling) -> Result<u32, DeviceFault>;

    /// Evaluates the next at most `tokens` prompt tokens of `row`; returns how many prompt tokens are left.
    ///
    /// # Errors
    /// The device failed; nothing can go on.
    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault>;

    /// One token for each of `rows`, in their order. Each row is open and its prompt is complete.
    ///
    /// # Errors
    /// The device failed; nothing can go on.
    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault>;

    /// Ends a row between steps: what it ran ahead is accounted for, its memory is given back.
    fn close(&mut self, row: RowId);

    /// Called when no row is open: gives memory back that only a busy engine needs.
    fn idle(&mut self);
}
