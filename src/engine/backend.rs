//! The one trait at which the request stack and the model stack meet. The engine drives a [`Backend`] on the inference
//! thread, one bounded unit of work per call; it knows rows and token ids, never arrays. The real backend is
//! `runner::Runner`; fault injection and the simulator stand behind the same trait.

use std::sync::Arc;

use crate::job::{Constraint, Sampling, Token};
pub use crate::lifecycle::heartbeat::MemoryHeld;

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
    /// Most prompt tokens evaluated per [`Backend::prefill`] call, sized at warm-up to take about 100 ms.
    pub prefill_chunk_tokens: u32,
    /// What rows cost in memory, and what there is.
    pub memory: Memory,
}

/// What a model and its rows take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// For everything together.
    pub bytes_max: u64,
    /// Taken whatever runs: the weights, and the transients of the largest pass.
    pub fixed_bytes: u64,
    /// Of a row, for each token of prompt and answer.
    pub token_bytes: u64,
    /// Tokens for which a row takes memory at once.
    pub step_tokens: u32,
    /// A row of more tokens than these forgets the oldest: it then takes what so many take, twice; `u32::MAX`: none does.
    pub window_tokens: u32,
}

impl Memory {
    /// For backends that hold nothing worth counting.
    pub const UNCOUNTED: Self =
        Self { bytes_max: u64::MAX, fixed_bytes: 0, token_bytes: 0, step_tokens: 1, window_tokens: u32::MAX };

    /// What a row of so many tokens of prompt and answer takes at the end.
    #[must_use]
    pub fn row_bytes(&self, tokens: u32) -> u64 {
        let held = if tokens > self.window_tokens { 2 * u64::from(self.window_tokens) } else { u64::from(tokens) };
        held.next_multiple_of(u64::from(self.step_tokens)).saturating_mul(self.token_bytes)
    }

    /// What there is for rows, and for what finished ones left.
    #[must_use]
    pub fn rows_bytes_max(&self) -> u64 {
        self.bytes_max.saturating_sub(self.fixed_bytes)
    }
}

/// What a row is opened with.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Not empty, and fits the context.
    pub prompt: &'a [u32],
    /// What another row computed is used again only if that was of the same bucket; without one, nothing is.
    pub bucket: Option<&'a Arc<str>>,
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// What restricts them.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Tokens that will be decoded at most; what would come behind them need not be computed.
    pub tokens_max: u32,
}

impl<'a> Ask<'a> {
    /// Without a constraint, to be decoded for as long as the context lasts.
    #[must_use]
    pub fn new(prompt: &'a [u32], bucket: &'a Arc<str>, sampling: &'a Sampling) -> Self {
        Self { prompt, bucket: Some(bucket), sampling, constraint: None, tokens_max: u32::MAX }
    }
}

/// What one step produced for one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// The next tokens of the row, at least one. Several are those that as many steps would have produced.
    Tokens(Vec<Token>),
    /// This row cannot go on (NaN logits, say); the others are untouched.
    Failed(String),
}

impl Decoded {
    /// The one next token of a row.
    #[must_use]
    pub fn token(token: impl Into<Token>) -> Self {
        Self::Tokens(vec![token.into()])
    }
}

/// The device or the process cannot go on. Every row is lost, and the process ends non-zero: we do not limp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceFault(pub String);

/// A loaded model that can run many rows. Called by one thread only, the one that built it and that drops it.
///
/// A row is opened with its whole prompt, begun, prefilled in chunks until [`Backend::prefill`] says that it is complete, then
/// decoded. After each call a row's recorded tokens equal the tokens in its cache, whether or not it is closed next; what a
/// backend has computed ahead of them is not counted.
pub trait Backend {
    /// What the model can take; constant.
    fn capacity(&self) -> Capacity;

    /// Opens a row; evaluates nothing.
    fn open(&mut self, row: RowId, ask: Ask<'_>);

    /// Called once, before the row's first prefill: how many of the prompt's first tokens need not be evaluated, because
    /// what another row of the same bucket has computed is used again; fewer than all.
    ///
    /// # Errors
    /// The device failed; nothing can go on.
    fn begin(&mut self, row: RowId) -> Result<u32, DeviceFault>;

    /// Evaluates the next at most `tokens` prompt tokens of `row`; returns how many prompt tokens are left.
    ///
    /// # Errors
    /// The device failed; nothing can go on.
    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault>;

    /// Prompt tokens for the next [`Backend::prefill`] call when rows decode, which wait for it; at most
    /// [`Capacity::prefill_chunk_tokens`].
    fn chunk_tokens_beside_decode(&self) -> u32 {
        self.capacity().prefill_chunk_tokens
    }

    /// At least one token for each of `rows`, in their order. Each row is open and its prompt is complete. Whoever calls
    /// takes tokens up to the row's end, closes a row that has ended, and ignores what a step gave behind that.
    ///
    /// # Errors
    /// The device failed; nothing can go on.
    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault>;

    /// Ends a row between steps: what it ran ahead is taken back, its memory is given back.
    fn close(&mut self, row: RowId);

    /// Bytes of what finished rows left for prompts that begin alike.
    fn kept_bytes(&self) -> u64;

    /// Gives back what finished rows left, least recently used first, until it is at most so many bytes.
    fn shed(&mut self, bytes_max: u64);

    /// What it holds in memory now; zeros from one that holds nothing worth counting.
    fn held(&self) -> MemoryHeld {
        MemoryHeld::default()
    }

    /// Called when no row is open: gives memory back that only a busy engine needs.
    fn idle(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_takes_whole_steps_and_beyond_its_window_two_of_those() {
        let memory = Memory { token_bytes: 3, step_tokens: 10, ..Memory::UNCOUNTED };
        assert_eq!([1, 10, 11].map(|tokens| memory.row_bytes(tokens)), [30, 30, 60]);
        let memory = Memory { window_tokens: 40, ..memory };
        assert_eq!([40, 41, 70, 1_000_000].map(|tokens| memory.row_bytes(tokens)), [120, 240, 240, 240]);
    }
}
