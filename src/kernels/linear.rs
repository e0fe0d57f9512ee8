//! Matrix products with weights, dense or quantised.
//!
//! Dense weights are kept so that the product is `x @ w` with `w` of shape `[inputs, outputs]`. On the CPU device that is
//! how they lie in memory (f32): for a token's 120 fused products of a 135M model plus its head, stock OpenBLAS took
//! 78 + 17 ms that way against 103 + 32 ms for `x @ wᵀ` with rows of outputs (one thread, a busy machine, best of 12; the
//! order holds for 4, 32 and 128 rows). On the GPU it is a transposed view of the file's layout, in 16 bits.

use mlx_rs::ops::{dequantize, quantized_matmul};

use crate::mlx::{Array, Dtype, Result, dim};

/// A weight matrix in the representation that its device likes best.
#[derive(Debug)]
pub enum Weight {
    /// `[inputs, outputs]`.
    Dense(Array),
    /// MLX's affine quantisation along the inputs.
    Affine {
        /// `[outputs, inputs · bits / 32]`, `u32`.
        packed: Array,
        /// `[outputs, inputs / group]`.
        scales: Array,
        /// As `scales`.
        biases: Array,
        /// Bits per weight.
        bits: usize,
        /// Weights that share a scale.
        group: usize,
    },
}

/// `x @ w`: `[…, inputs]` → `[…, outputs]`.
///
/// # Errors
/// The shapes do not fit.
pub fn project(x: &Array, weight: &Weight) -> Result<Array> {
    Ok(match weight {
        Weight::Dense(matrix) => x.matmul(matrix)?,
        Weight::Affine { packed, scales, biases, bits, group } => {
            quantized_matmul(x, packed, scales, biases, true, dim(*group), dim(*bits))?
        }
    })
}

impl Weight {
    /// Columns of the matrix as rows: the embeddings of `tokens` `[1, L]` → `[1, L, inputs]`, for a weight whose outputs
    /// are the vocabulary.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn lookup(&self, tokens: &Array) -> Result<Array> {
        Ok(match self {
            // [inputs, 1, L] → [1, L, inputs]; the gather of one strided column costs far less than the head gains.
            Self::Dense(matrix) => matrix.take_axis(tokens, 1)?.transpose_axes(&[1, 2, 0])?.contiguous()?,
            Self::Affine { packed, scales, biases, bits, group } => dequantize(
                packed.take_axis(tokens, 0)?,
                scales.take_axis(tokens, 0)?,
                &biases.take_axis(tokens, 0)?,
                dim(*group),
                dim(*bits),
            )?,
        })
    }

    /// The type that products with this weight have on the GPU.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Dense(matrix) => matrix.dtype(),
            Self::Affine { scales, .. } => scales.dtype(),
        }
    }

    /// The arrays it is made of.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        match self {
            Self::Dense(matrix) => vec![matrix].into_iter(),
            Self::Affine { packed, scales, biases, .. } => vec![packed, scales, biases].into_iter(),
        }
    }
}
