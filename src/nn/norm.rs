//! Root-mean-square norm with a weight.

use crate::kernels::rms_norm;
use crate::mlx::{Array, Result};

/// `x / rms(x) · weight`.
#[derive(Debug)]
pub struct RmsNorm {
    /// `[width]`.
    weight: Array,
    /// Added to the mean square.
    eps: f32,
}

impl RmsNorm {
    /// A norm over the last axis.
    #[must_use]
    pub fn new(weight: Array, eps: f32) -> Self {
        Self { weight, eps }
    }

    /// Same shape out as in.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        rms_norm(x, &self.weight, self.eps)
    }
}
