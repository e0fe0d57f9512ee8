//! The operations that have a kernel of their own, one function each: every choice between MLX's operation and a kernel of
//! ours is made here and nowhere else. It refuses to know models.
//!
//! On the GPU they are MLX's operations. On the CPU device they are the primitives in `cpu`, because MLX's CPU backend has
//! no kernels behind `fast::rms_norm`, `fast::rope` and `fast::scaled_dot_product_attention` (they fall back to chains of
//! small operations at 3–6 µs each) and multiplies quantised weights in a scalar loop.

mod attention;
mod choose;
mod coding;
mod cpu;
mod linear;
mod norm;
mod rope;

pub use attention::{Heads, KeyValues, Sequence, Stored, attention};
pub use choose::{NOT_FINITE, Rule, choose, height};
pub use coding::{Bits, Coding};
pub use cpu::{Packed, Real, Rows, machine};
pub use linear::{Norm, Projection, Weight};
pub use norm::rms_norm;
pub use rope::{Angles, Rope, RopeScaling};

use crate::mlx::{Array, Device, Result, device};

/// Replaces `arrays`, which nothing was evaluated of yet, by the same values with less for MLX to schedule: on the CPU
/// device all kernels that they depend on become one operation. Elsewhere it does nothing.
///
/// # Errors
/// The memory was refused.
pub fn fuse<'a>(arrays: impl Iterator<Item = &'a mut Array>) -> Result<()> {
    match device() {
        Device::Cpu => cpu::fuse(arrays),
        Device::Gpu => Ok(()),
    }
}
