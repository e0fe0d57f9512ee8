//! Root-mean-square normalisation.

use crate::kernels::cpu;
use crate::mlx::{Array, Device, Result, device};

/// `x / sqrt(mean(x²) + eps) · weight` along the last axis.
///
/// # Errors
/// The shapes do not fit.
pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    match device() {
        Device::Gpu => Ok(mlx_rs::fast::rms_norm(x, Some(weight), eps)?),
        Device::Cpu => cpu::rms_norm(x, weight, eps),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{from_f32, to_f32_vec};

    #[test]
    fn the_kernel_equals_the_composed_operations() {
        for width in [5, 8, 48, 576] {
            let values: Vec<f32> = (0..3 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
            let weight: Vec<f32> = (0..width).map(|i| 0.5 + i as f32 / 40.0).collect();
            let (x, w) = (from_f32(&values, &[1, 3, width]), from_f32(&weight, &[width]));
            let kernel = to_f32_vec(&cpu::rms_norm(&x, &w, 1e-5).expect("fits")).expect("cpu");
            let fast = to_f32_vec(&mlx_rs::fast::rms_norm(&x, Some(&w), 1e-5).expect("fits")).expect("cpu");
            assert_eq!(kernel.len(), 3 * width);
            for (a, b) in kernel.iter().zip(&fast) {
                assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} and {b}");
            }
        }
    }
}
