//! Root-mean-square norm with a weight.

use crate::kernels::Norm;
use crate::mlx::Array;

/// `x / rms(x) · weight`, as the first step of a projection.
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

    /// As a projection takes it.
    pub(super) fn kernel(&self) -> Norm<'_> {
        Norm { weight: &self.weight, eps: self.eps }
    }
}
