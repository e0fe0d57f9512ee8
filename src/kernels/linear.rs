//! Projections: products with weights, dense or quantised, and what surrounds them in a block of a model.
//!
//! On the CPU device weights keep the coding of the file and a projection is one operation of ours, its norm, bias,
//! residual and gate included (`cpu::project`). On the GPU they are MLX's operations one after the other.

use mlx_rs::ops::{concatenate, dequantize, quantized_matmul, sigmoid};

use crate::kernels::cpu::{self, After, Operands, Packed};
use crate::kernels::rms_norm;
use crate::mlx::{Array, Dtype, Result, dim};

/// A weight matrix in the representation that its device likes best.
#[derive(Debug)]
pub enum Weight {
    /// For MLX: `[inputs, outputs]`, a transposed view of the file's layout.
    Dense(Array),
    /// For MLX: affine quantisation along the inputs.
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
    /// For our kernels, whatever the file had.
    Packed(Packed),
}

/// A norm's weight `[inputs]` and its `eps`.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// What the normalised elements are multiplied by.
    pub weight: &'a Array,
    /// Added to the mean square.
    pub eps: f32,
}

/// Matrices that the same input is multiplied with, their outputs one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// At least one.
    pub weights: &'a [Weight],
    /// `[outputs]`.
    pub bias: Option<&'a Array>,
    /// Of the input.
    pub norm: Option<Norm<'a>>,
}

impl Projection<'_> {
    /// `norm(x) @ w + bias`: `[…, inputs]` → `[…, outputs]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        match self.packed() {
            Some(matrices) => cpu::project(x, &self.operands(matrices, After::Plain, None)),
            None => self.composed(x),
        }
    }

    /// `residual + norm(x) @ w + bias`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn add_to(&self, residual: &Array, x: &Array) -> Result<Array> {
        match self.packed() {
            Some(matrices) => cpu::project(x, &self.operands(matrices, After::Add, Some(residual))),
            None => Ok(residual.add(self.composed(x)?)?),
        }
    }

    /// `silu(gate) · up`, where the outputs of `norm(x) @ w + bias` are the gate and then, as many, up:
    /// `[…, inputs]` → `[…, outputs / 2]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn gated(&self, x: &Array) -> Result<Array> {
        match self.packed() {
            Some(matrices) => {
                assert_eq!(matrices.len(), 2, "gate and up are packed as two matrices");
                cpu::project(x, &self.operands(matrices, After::SwiGlu, None))
            }
            None => {
                let both = self.composed(x)?;
                let parts = both.split_equal(2, -1)?;
                let [gate, up] = parts.as_slice() else { unreachable!("it was split in two") };
                // Not `nn::silu`: that one is compiled, which on the CPU device runs a C++ compiler.
                Ok(gate.multiply(sigmoid(gate)?)?.multiply(up)?)
            }
        }
    }

    /// The matrices, if they are for our kernels.
    fn packed(&self) -> Option<Vec<&Packed>> {
        self.weights
            .iter()
            .map(|weight| match weight {
                Weight::Packed(packed) => Some(packed),
                Weight::Dense(_) | Weight::Affine { .. } => None,
            })
            .collect()
    }

    fn operands<'a>(&'a self, matrices: Vec<&'a Packed>, after: After, residual: Option<&'a Array>) -> Operands<'a> {
        let norm = self.norm.map(|norm| (norm.weight, norm.eps));
        Operands { matrices, norm, bias: self.bias, residual, after }
    }

    /// By MLX's operations.
    fn composed(&self, x: &Array) -> Result<Array> {
        let normed = self.norm.map(|norm| rms_norm(x, norm.weight, norm.eps)).transpose()?;
        let x = normed.as_ref().unwrap_or(x);
        let mut parts = self.weights.iter().map(|weight| weight.product(x)).collect::<Result<Vec<_>>>()?;
        let product = if parts.len() == 1 { parts.remove(0) } else { concatenate(&parts, -1)? };
        match self.bias {
            Some(bias) => Ok(product.add(bias)?),
            None => Ok(product),
        }
    }
}

impl Weight {
    fn product(&self, x: &Array) -> Result<Array> {
        Ok(match self {
            Self::Dense(matrix) => x.matmul(matrix)?,
            Self::Affine { packed, scales, biases, bits, group } => {
                quantized_matmul(x, packed, scales, biases, true, dim(*group), dim(*bits))?
            }
            Self::Packed(_) => unreachable!("packed weights are for our kernels"),
        })
    }

    /// Columns of the matrix as rows: the embeddings of `tokens` `[1, L]` → `[1, L, inputs]`, for a weight whose outputs
    /// are the vocabulary.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn lookup(&self, tokens: &Array) -> Result<Array> {
        Ok(match self {
            Self::Dense(matrix) => matrix.t().take_axis(tokens, 0)?,
            Self::Affine { packed, scales, biases, bits, group } => dequantize(
                packed.take_axis(tokens, 0)?,
                scales.take_axis(tokens, 0)?,
                &biases.take_axis(tokens, 0)?,
                dim(*group),
                dim(*bits),
            )?,
            Self::Packed(packed) => cpu::lookup(tokens, packed)?,
        })
    }

    /// The type that products with this weight have on the GPU.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Dense(matrix) => matrix.dtype(),
            Self::Affine { scales, .. } => scales.dtype(),
            Self::Packed(_) => Dtype::Float32,
        }
    }

    /// The arrays it is made of.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        match self {
            Self::Dense(matrix) => vec![matrix].into_iter(),
            Self::Affine { packed, scales, biases, .. } => vec![packed, scales, biases].into_iter(),
            Self::Packed(packed) => vec![packed.data()].into_iter(),
        }
    }
}
