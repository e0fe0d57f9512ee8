//! Root-mean-square normalisation.

use mlx_rs::ops::{addmm, rsqrt};

use crate::mlx::{Array, Device, Result, device};

/// `x / sqrt(mean(x²) + eps) · weight` along the last axis.
///
/// On the CPU device the mean of squares and the `eps` are one `addmm` of a row with itself: four operations instead of
/// the seven that `fast::rms_norm` falls back to.
///
/// # Errors
/// The shapes do not fit.
pub fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    match device() {
        Device::Gpu => Ok(mlx_rs::fast::rms_norm(x, Some(weight), eps)?),
        Device::Cpu => composed(x, weight, eps),
    }
}

fn composed(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    let shape = x.shape().to_vec();
    let width = shape.last().copied().unwrap_or(1);
    let rows = x.reshape(&[-1, 1, width])?; // [B·L, 1, D]
    let columns = x.reshape(&[-1, width, 1])?; // [B·L, D, 1]
    let scale = 1.0 / width as f32;
    let variance = addmm(Array::from_f32(eps), &rows, columns, scale, 1.0)?; // [B·L, 1, 1]
    let normed = rows.multiply(rsqrt(variance)?)?.multiply(weight)?;
    Ok(normed.reshape(&shape)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{from_f32, to_f32_vec};

    #[test]
    fn the_composition_equals_the_fast_operation() {
        let values: Vec<f32> = (0..3 * 48).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
        let weight: Vec<f32> = (0..48).map(|i| 0.5 + i as f32 / 40.0).collect();
        let (x, w) = (from_f32(&values, &[1, 3, 48]), from_f32(&weight, &[48]));
        let composed = to_f32_vec(&composed(&x, &w, 1e-5).expect("fits")).expect("cpu");
        let fast = to_f32_vec(&mlx_rs::fast::rms_norm(&x, Some(&w), 1e-5).expect("fits")).expect("cpu");
        assert_eq!(composed.len(), 3 * 48);
        for (a, b) in composed.iter().zip(&fast) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} and {b}");
        }
    }
}
