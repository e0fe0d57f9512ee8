//! Token embeddings, also as the head of a model that ties the two.

use std::slice;

use crate::kernels::{Projection, Weight};
use crate::mlx::{Array, Result};
use crate::nn::RmsNorm;

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

    /// Scores of every token: `[…, width]`, to be normalised first, → `[…, vocabulary]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn as_head(&self, norm: &RmsNorm, x: &Array) -> Result<Array> {
        Projection { weights: slice::from_ref(&self.weight), bias: None, norm: Some(norm.kernel()) }.forward(x)
    }
}
