//! The gated feed-forward block.

use crate::mlx::{Array, Result};
use crate::nn::{Linear, RmsNorm};

/// `x + down(silu(gate(y)) · up(y))` with `y = norm(x)`, gate and up being one projection.
#[derive(Debug)]
pub struct SwiGlu {
    norm: RmsNorm,
    /// Outputs: the gate, then up.
    gate_up: Linear,
    /// Back to the width.
    down: Linear,
}

impl SwiGlu {
    /// A block of these projections.
    #[must_use]
    pub fn new(norm: RmsNorm, gate_up: Linear, down: Linear) -> Self {
        Self { norm, gate_up, down }
    }

    /// `[B, L, width]` → `[B, L, width]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let gated = self.gate_up.kernel(Some(self.norm.kernel())).gated(x)?;
        self.down.add_to(x, &gated)
    }
}
