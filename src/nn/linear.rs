//! Projections with an optional bias.

use crate::kernels::{Norm, Projection, Weight};
use crate::mlx::{Array, Result};
use crate::nn::RmsNorm;

/// `x @ w + b`. Projections of the same input are held together; their outputs follow each other.
#[derive(Debug)]
pub struct Linear {
    /// At least one.
    weights: Vec<Weight>,
    /// `[outputs]`.
    bias: Option<Array>,
}

impl Linear {
    /// A projection by `weights`, whose outputs follow each other.
    #[must_use]
    pub fn new(weights: Vec<Weight>, bias: Option<Array>) -> Self {
        assert!(!weights.is_empty(), "a projection has a matrix");
        Self { weights, bias }
    }

    /// Of the normalised input: `[…, inputs]` → `[…, outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn normed(&self, norm: &RmsNorm, x: &Array) -> Result<Array> {
        self.kernel(Some(norm.kernel())).forward(x)
    }

    /// Added to the residual: `[…, inputs]` → `[…, outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn add_to(&self, residual: &Array, x: &Array) -> Result<Array> {
        self.kernel(None).add_to(residual, x)
    }

    pub(super) fn kernel<'a>(&'a self, norm: Option<Norm<'a>>) -> Projection<'a> {
        Projection { weights: &self.weights, bias: self.bias.as_ref(), norm }
    }
}
