//! The gated feed-forward block.

use mlx_rs::ops::sigmoid;

use crate::mlx::{Array, Result};
use crate::nn::Linear;

/// `down(silu(gate(x)) · up(x))`, with gate and up as one projection.
#[derive(Debug)]
pub struct SwiGlu {
    /// Outputs: the gate, then up.
    gate_up: Linear,
    /// Back to the width.
    down: Linear,
}

impl SwiGlu {
    /// A block of these projections.
    #[must_use]
    pub fn new(gate_up: Linear, down: Linear) -> Self {
        Self { gate_up, down }
    }

    /// `[B, L, width]` → `[B, L, width]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let both = self.gate_up.forward(x)?.split_equal(2, -1)?; // 2 × [B, L, inner]
        let [gate, up] = both.as_slice() else { unreachable!("it was split in two") };
        // Not `nn::silu`: that one is compiled, which on the CPU device runs a C++ compiler.
        let gated = gate.multiply(sigmoid(gate)?)?.multiply(up)?;
        self.down.forward(&gated)
    }
}
