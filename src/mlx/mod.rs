//! The thread-confined façade over `mlx_rs`: which device computes, when something is evaluated, how bytes become arrays,
//! what MLX holds in memory, and one error type for whatever it refuses. It refuses to know requests and models.
//!
//! Arrays are made, evaluated and dropped on one thread (MLX's default streams are per thread). Nothing here keeps an
//! array, so the thread that calls owns everything it made. `mlx_rs` marks arrays `Send`; we never use that.
//!
//! Sizes are `usize` and positions `u32` everywhere above; the conversions to MLX's `i32` happen here.

mod array;
mod memory;

use std::sync::OnceLock;

use mlx_rs::error::{AsSliceError, ConversionError, Exception};

pub use array::{filled, filled_f32, from_f32, from_tokens, slice, slice_update, to_f32_vec, to_u32_vec};
pub use memory::{Gauges, clear_cache, gauges, recommended_bytes, reset_peak, set_cache_limit, set_wired_limit};
pub use mlx_rs::{Array, Dtype};

/// What MLX refused or lost. Above the runner it is always a device fault: no MLX error is survived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mlx: {0}")]
pub struct MlxError(String);

/// The result of everything that touches MLX.
pub type Result<T> = std::result::Result<T, MlxError>;

impl MlxError {
    /// Something that was refused before MLX was asked.
    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl From<Exception> for MlxError {
    fn from(exception: Exception) -> Self {
        Self(exception.what().to_owned())
    }
}

impl From<AsSliceError> for MlxError {
    fn from(error: AsSliceError) -> Self {
        Self(error.to_string())
    }
}

impl From<ConversionError> for MlxError {
    fn from(error: ConversionError) -> Self {
        Self(error.to_string())
    }
}

/// What computes. It decides the representation of weights, the kernels and how far ahead the runner submits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// MLX's CPU backend: 32-bit floats, BLAS.
    Cpu,
    /// Metal (or another accelerator that MLX was built with): 16-bit floats, quantised weights.
    Gpu,
}

/// The device of this process: MLX's default one, asked once.
#[must_use]
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    *DEVICE.get_or_init(|| match mlx_rs::Device::try_default().and_then(|device| device.get_type()) {
        Ok(mlx_rs::DeviceType::Gpu) => Device::Gpu,
        Ok(mlx_rs::DeviceType::Cpu) | Err(_) => Device::Cpu,
    })
}

/// Evaluates and waits.
///
/// # Errors
/// The device failed.
pub fn eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    Ok(mlx_rs::transforms::eval(arrays)?)
}

/// Submits for evaluation. On the GPU it returns at once; on the CPU backend it returns when few operations are left, because
/// MLX bounds its queue of CPU tasks.
///
/// # Errors
/// The device failed.
pub fn async_eval<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Result<()> {
    Ok(mlx_rs::transforms::async_eval(arrays)?)
}

/// A size as MLX wants it. Sizes come from a checked model or from settings, all far below the limit.
#[must_use]
pub fn dim(size: usize) -> i32 {
    i32::try_from(size).expect("sizes are checked against the model before they get here")
}
