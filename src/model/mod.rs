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

use crate::cache::KvCache;
use crate::kernels::fuse;
use crate::mlx::{Array, MlxError, Result, slice};
use crate::model::weights::LoadError;

/// A loaded model: tokens and what is remembered of earlier ones, to scores of the next.
pub trait Model {
    /// What a new row remembers: nothing yet, one cache a layer, with room for so many tokens before any of them moves.
    fn caches(&self, tokens: usize) -> Vec<KvCache>;

    /// Runs the layers over `tokens` `[1, L]`, which follow what `caches` hold, and appends them there; `[1, L, width]`.
    ///
    /// # Errors
    /// MLX refused; the caches are lost.
    fn hidden(&self, tokens: &Array, caches: &mut [KvCache]) -> Result<Array>;

    /// Scores of the next token at each of these positions; `[1, L, vocabulary]`.
    ///
    /// # Errors
    /// MLX refused.
    fn head(&self, hidden: &Array) -> Result<Array>;

    /// Scores of the token that follows `tokens` `[1, L]`; `[1, 1, vocabulary]`. The caches get the tokens.
    ///
    /// # Errors
    /// MLX refused; the caches are lost.
    fn forward(&self, tokens: &Array, caches: &mut [KvCache]) -> Result<Array> {
        let mut hidden = self.hidden(tokens, caches)?;
        fuse(std::iter::once(&mut hidden).chain(caches.iter_mut().flat_map(KvCache::arrays_mut)))?;
        let &[_, length, width] = hidden.shape() else { unreachable!("hidden states are [1, L, width]") };
        let (length, width) = (length.unsigned_abs() as usize, width.unsigned_abs() as usize);
        self.head(&slice(&hidden, &[0, length - 1, 0], &[1, length, width])?)
    }

    /// As `forward` for a caller who wants no scores: what only they need is left out.
    ///
    /// # Errors
    /// MLX refused; the caches are lost.
    fn remember(&self, tokens: &Array, caches: &mut [KvCache]) -> Result<()> {
        self.hidden(tokens, caches)?;
        fuse(caches.iter_mut().flat_map(KvCache::arrays_mut))
    }
}

/// Why a model did not become arrays.
#[derive(Debug, thiserror::Error)]
pub enum LoadFailure {
    /// Its files are wrong.
    #[error(transparent)]
    Checkpoint(#[from] LoadError),
    /// MLX refused.
    #[error(transparent)]
    Device(#[from] MlxError),
}
