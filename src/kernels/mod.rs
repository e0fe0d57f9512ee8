//! The operations that may get a kernel of their own, one function each: every choice between MLX's fast operation, a
//! composition of plain ones and (next) a native kernel is made here and nowhere else. It refuses to know models.
//!
//! What was chosen on the CPU device, and why, is written at each function; `benches/decode.rs` measures the choices.
//! MLX's CPU backend has no kernels behind `fast::rms_norm`, `fast::rope` and `fast::scaled_dot_product_attention`: they
//! fall back to chains of small operations at 3–6 µs each, so fewer operations win.

mod attention;
mod linear;
mod norm;
mod rope;

pub use attention::{Mask, attention};
pub use linear::{Weight, project};
pub use norm::rms_norm;
pub use rope::{Angles, Rope, RopeScaling};
