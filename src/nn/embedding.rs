//! Token embeddings, also as the head of a model that ties the two.

use crate::kernels::{Weight, project};
use crate::mlx::{Array, Result};

/// A vector per token; read backwards it scores every token.
#[derive(Debug)]
pub struct Embedding {
    /// A projection from the width to the vocabulary.
    weight: Weight,
}

impl Embedding {
    /// Embeddings whose transposition is the head.
    #[must_use]
    pub fn new(weight: Weight) -> Self {
        Self { weight }
    }

    /// Token ids `[1, L]` → `[1, L, width]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, tokens: &Array) -> Result<Array> {
        self.weight.lookup(tokens)
    }

    /// `[…, width]` → `[…, vocabulary]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn as_head(&self, x: &Array) -> Result<Array> {
        project(x, &self.weight)
    }
}
