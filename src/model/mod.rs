//! Models: what every architecture offers the runner, the registry of those that exist, how their weights become arrays,
//! and one file per `model_type`. It refuses to know the engine, rows, sampling and text.

mod llama;
mod loader;
pub mod registry;
pub mod source;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod weights;

use mlx_rs::ops::concatenate;

use crate::cache::KvCache;
use crate::kernels::{Coding, fuse};
use crate::mlx::{Array, MlxError, Result, slice};
use crate::model::weights::LoadError;

/// The part of a forward pass that belongs to one row.
#[derive(Debug)]
pub struct Sequence<'a> {
    /// What the row remembers, one cache a layer; the pass appends to each.
    pub caches: &'a mut [KvCache],
    /// How many of the pass' tokens are the row's.
    pub count: usize,
}

/// A loaded model: tokens and what is remembered of earlier ones, to scores of the next. A pass may serve several rows at
/// once; what a row gets does not depend on the others.
pub trait Model {
    /// What a new row remembers: nothing yet, one cache a layer, coded like this, with room for so many tokens before any of
    /// them moves.
    fn caches(&self, coding: Coding, tokens: usize) -> Vec<KvCache>;

    /// Runs the layers over `tokens` `[1, T]`, each sequence's one after the other, and appends them to its caches;
    /// `[1, T, width]`.
    ///
    /// # Errors
    /// MLX refused; the caches are lost.
    fn hidden(&self, tokens: &Array, sequences: &mut [Sequence<'_>]) -> Result<Array>;

    /// Scores of the next token at each of these positions; `[1, L, vocabulary]`.
    ///
    /// # Errors
    /// MLX refused.
    fn head(&self, hidden: &Array) -> Result<Array>;

    /// Scores of the token that follows each of S sequences, whose tokens are `[1, T]`; `[1, S, vocabulary]`. The caches
    /// get the tokens.
    ///
    /// # Errors
    /// MLX refused; the caches are lost.
    fn forward(&self, tokens: &Array, sequences: &mut [Sequence<'_>]) -> Result<Array> {
        let mut hidden = self.hidden(tokens, sequences)?;
        fuse(std::iter::once(&mut hidden).chain(buffers(sequences)))?;
        self.head(&last_of_each(hidden, sequences)?)
    }

    /// As `forward`, but scores of the token that follows each token; `[1, T, vocabulary]`.
    ///
    /// # Errors
    /// MLX refused; the caches are lost.
    fn forward_all(&self, tokens: &Array, sequences: &mut [Sequence<'_>]) -> Result<Array> {
        let mut hidden = self.hidden(tokens, sequences)?;
        fuse(std::iter::once(&mut hidden).chain(buffers(sequences)))?;
        self.head(&hidden)
    }

    /// As `forward` for a caller who wants no scores: what only they need is left out.
    ///
    /// # Errors
    /// MLX refused; the caches are lost.
    fn remember(&self, tokens: &Array, sequences: &mut [Sequence<'_>]) -> Result<()> {
        self.hidden(tokens, sequences)?;
        fuse(buffers(sequences))
    }
}

/// The arrays of all caches.
fn buffers<'a>(sequences: &'a mut [Sequence<'_>]) -> impl Iterator<Item = &'a mut Array> {
    sequences.iter_mut().flat_map(|sequence| sequence.caches.iter_mut()).flat_map(KvCache::arrays_mut)
}

/// The last position of each sequence: `[1, T, width]` → `[1, S, width]`.
fn last_of_each(hidden: Array, sequences: &[Sequence<'_>]) -> Result<Array> {
    let width = hidden.shape()[2].unsigned_abs() as usize;
    if sequences.iter().all(|sequence| sequence.count == 1) {
        return Ok(hidden);
    }
    let mut end = 0;
    let last = sequences.iter().map(|sequence| {
        end += sequence.count;
        slice(&hidden, &[0, end - 1, 0], &[1, end, width])
    });
    let last = last.collect::<Result<Vec<_>>>()?;
    Ok(concatenate(&last, 1)?)
}

/// Why a model did not become arrays.
#[derive(Debug, thiserror::Error)]
pub enum LoadFailure {
    /// Its files are wrong.
    #[error(transparent)]
    Checkpoint(#[from] LoadError),
    /// There is no room for it.
    #[error(
        "the model takes {} MiB of memory, and {} MiB may be used: a smaller model, or a larger memory_limit_mb, is needed",
        .bytes.div_ceil(1 << 20), .bytes_max >> 20
    )]
    Memory {
        /// What it takes before the first row.
        bytes: u64,
        /// What may be used.
        bytes_max: u64,
    },
    /// MLX refused.
    #[error(transparent)]
    Device(#[from] MlxError),
}
