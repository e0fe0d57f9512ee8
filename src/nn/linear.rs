//! A projection with an optional bias.

use mlx_rs::ops::concatenate;

use crate::kernels::{Weight, project};
use crate::mlx::{Array, Result};

/// `x @ w + b`. Projections of the same input are held as one: usually as one matrix, and as several only where a
/// checkpoint quantises them differently.
#[derive(Debug)]
pub struct Linear {
    /// Matrices whose outputs follow each other; at least one.
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

    /// `[…, inputs]` → `[…, outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let product = match self.weights.as_slice() {
            [weight] => project(x, weight)?,
            weights => {
                let parts = weights.iter().map(|weight| project(x, weight)).collect::<Result<Vec<_>>>()?;
                concatenate(&parts, -1)?
            }
        };
        match &self.bias {
            Some(bias) => Ok(product.add(bias)?),
            None => Ok(product),
        }
    }
}
