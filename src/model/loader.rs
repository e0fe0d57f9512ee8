//! Tensors of a checkpoint become blocks of `nn`, one at a time and in the representation that the device likes best, so
//! that at no time more than one tensor exists twice.
//!
//! CPU device: packed for our kernels in the coding of the file; norms and biases as 32-bit floats. GPU: bytes as they are
//! in the file, 4- and 8-bit weights included; norms, scales and biases in the 16-bit type of the embedding.

use crate::kernels::{Packed, Real, Rows, Weight};
use crate::mlx::{Array, Device, Dtype, MlxError, device, eval, filled, filled_f32};
use crate::model::LoadFailure;
use crate::model::source::Tensors;
use crate::model::weights::{Dtype as Stored, Representation, Tensor};
use crate::nn::{Embedding, Linear, RmsNorm};

/// Makes blocks from named tensors.
pub(crate) struct Loader<'a> {
    source: &'a dyn Tensors,
    /// Hears the name of each tensor that is in memory.
    progress: &'a dyn Fn(&str),
    device: Device,
    /// The type of activations: on the GPU that of the embedding.
    activations: Dtype,
}

/// Tensors whose rows follow each other in one matrix.
struct Stack<'a> {
    tensors: Vec<Tensor<'a>>,
}

impl<'a> Loader<'a> {
    /// A loader for a model whose embedding has this name.
    pub(crate) fn new(source: &'a dyn Tensors, progress: &'a dyn Fn(&str), embedding: &str) -> Self {
        let activations = match (device(), source.representation_of(embedding)) {
            (Device::Cpu, _) | (Device::Gpu, None) => Dtype::Float32,
            (Device::Gpu, Some(Representation::Dense(dtype) | Representation::Affine { dtype, .. })) => mlx_type(dtype),
        };
        Self { source, progress, device: device(), activations }
    }

    /// The embedding `NAME.weight`; load it first, because it is the largest.
    pub(crate) fn embedding(&self, name: &str) -> Result<Embedding, LoadFailure> {
        Ok(Embedding::new(self.weights(&[name])?.remove(0)))
    }

    /// The norm `NAME.weight`.
    pub(crate) fn norm(&self, name: &str, eps: f32) -> Result<RmsNorm, LoadFailure> {
        Ok(RmsNorm::new(self.vector(&[format!("{name}.weight")])?, eps))
    }

    /// Projections of the same input as one: `NAME.weight` of each, and `NAME.bias` where the model has biases.
    pub(crate) fn linear(&self, names: &[&str], biased: bool) -> Result<Linear, LoadFailure> {
        let weights = self.weights(names)?;
        let biases: Vec<String> = names.iter().map(|name| format!("{name}.bias")).collect();
        let bias = biased.then(|| self.vector(&biases)).transpose()?;
        Ok(Linear::new(weights, bias))
    }

    fn weights(&self, names: &[&str]) -> Result<Vec<Weight>, LoadFailure> {
        let names: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        let mut stacks: Vec<Stack<'_>> = Vec::new();
        for name in &names {
            let tensor = self.source.tensor(name)?;
            match stacks.last_mut() {
                Some(stack) if self.device == Device::Gpu && stack.takes(&tensor) => stack.tensors.push(tensor),
                Some(_) | None => stacks.push(Stack { tensors: vec![tensor] }),
            }
        }
        let weights = stacks.iter().map(|stack| match self.device {
            Device::Cpu => packed(&stack.tensors[0]),
            Device::Gpu => stack.as_stored(self.activations),
        });
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        self.source.release();
        names.iter().for_each(|name| (self.progress)(name));
        Ok(weights)
    }

    /// One-dimensional tensors, one after the other.
    fn vector(&self, names: &[String]) -> Result<Array, LoadFailure> {
        let tensors = names.iter().map(|name| self.source.tensor(name)).collect::<Result<Vec<_>, _>>()?;
        let values: usize = tensors.iter().map(Tensor::values).sum();
        let vector = filled_f32(&[values], |mut out| {
            for tensor in &tensors {
                let (part, rest) = out.split_at_mut(tensor.values());
                tensor.to_f32(part);
                out = rest;
            }
            Ok::<_, MlxError>(())
        })?;
        let vector = match self.device {
            Device::Cpu => vector,
            Device::Gpu => cast(&vector, self.activations)?,
        };
        names.iter().for_each(|name| (self.progress)(name));
        Ok(vector)
    }
}

impl Stack<'_> {
    /// Whether `next` is stored as those before it.
    fn takes(&self, next: &Tensor<'_>) -> bool {
        match (&self.tensors[0], next) {
            (Tensor::Dense { dtype, .. }, Tensor::Dense { dtype: other, .. }) => dtype == other,
            (
                Tensor::Affine { bits, group, dtype, .. },
                Tensor::Affine { bits: bits_, group: group_, dtype: dtype_, .. },
            ) => (bits, group, dtype) == (bits_, group_, dtype_),
            (Tensor::Dense { .. }, Tensor::Affine { .. }) | (Tensor::Affine { .. }, Tensor::Dense { .. }) => false,
        }
    }

    /// Rows of all tensors together.
    fn rows(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.shape()[0]).sum()
    }

    /// Columns, the same for all.
    fn columns(&self) -> usize {
        self.tensors[0].shape()[1]
    }

    /// The bytes of the file; `activations` is the type of what is not packed.
    fn as_stored(&self, activations: Dtype) -> Result<Weight, LoadFailure> {
        let (rows, columns) = (self.rows(), self.columns());
        match &self.tensors[0] {
            Tensor::Dense { dtype, .. } => {
                let matrix = self.joined(&[rows, columns], mlx_type(*dtype), |tensor| match tensor {
                    Tensor::Dense { bytes, .. } => bytes,
                    Tensor::Affine { .. } => unreachable!("a stack has one representation"),
                })?;
                Ok(Weight::Dense(cast(&matrix, activations)?.t()))
            }
            Tensor::Affine { bits, group, dtype, .. } => {
                let stored = mlx_type(*dtype);
                let words = [rows, columns * usize::from(*bits) / 32];
                let groups = [rows, columns / group];
                let packed = self.joined(&words, Dtype::Uint32, |tensor| affine(tensor)[0])?;
                let scales = self.joined(&groups, stored, |tensor| affine(tensor)[1])?;
                let biases = self.joined(&groups, stored, |tensor| affine(tensor)[2])?;
                Ok(Weight::Affine {
                    packed,
                    scales: cast(&scales, activations)?,
                    biases: cast(&biases, activations)?,
                    bits: usize::from(*bits),
                    group: *group,
                })
            }
        }
    }

    /// One part of each tensor's bytes, one after the other.
    fn joined(
        &self,
        shape: &[usize],
        dtype: Dtype,
        part: impl for<'t> Fn(&'t Tensor<'_>) -> &'t [u8],
    ) -> Result<Array, MlxError> {
        filled(shape, dtype, |mut out| {
            for bytes in self.tensors.iter().map(part) {
                let (place, rest) = out.split_at_mut(bytes.len());
                place.copy_from_slice(bytes);
                out = rest;
            }
            assert!(out.is_empty(), "the parts fill the array");
            Ok(())
        })
    }
}

/// One tensor as our kernels want it.
fn packed(tensor: &Tensor<'_>) -> Result<Weight, LoadFailure> {
    let &[outputs, inputs] = tensor.shape() else { unreachable!("the plan has checked that matrices are matrices") };
    let rows = match tensor {
        Tensor::Dense { dtype, bytes, .. } => Rows::Dense { real: real(*dtype), bytes },
        Tensor::Affine { bits, group, packed, scales, biases, dtype, .. } => {
            Rows::Affine { bits: usize::from(*bits), group: *group, packed, scales, biases, real: real(*dtype) }
        }
    };
    Ok(Weight::Packed(Packed::new(outputs, inputs, &rows)?))
}

fn real(stored: Stored) -> Real {
    match stored {
        Stored::F32 => Real::F32,
        Stored::F16 => Real::F16,
        Stored::Bf16 => Real::Bf16,
    }
}

/// Packed integers, scales and biases.
fn affine<'t>(tensor: &'t Tensor<'_>) -> [&'t [u8]; 3] {
    match tensor {
        Tensor::Affine { packed, scales, biases, .. } => [packed, scales, biases],
        Tensor::Dense { .. } => unreachable!("a stack has one representation"),
    }
}

/// `array` as `dtype`, evaluated so that the original can go.
fn cast(array: &Array, dtype: Dtype) -> Result<Array, MlxError> {
    if array.dtype() == dtype {
        return Ok(array.clone());
    }
    let array = array.as_dtype(dtype)?;
    eval([&array])?;
    Ok(array)
}

fn mlx_type(stored: Stored) -> Dtype {
    match stored {
        Stored::F32 => Dtype::Float32,
        Stored::F16 => Dtype::Float16,
        Stored::Bf16 => Dtype::Bfloat16,
    }
}
