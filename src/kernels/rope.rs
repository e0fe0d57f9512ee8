//! Rotary position embedding. The angles of the positions of one forward pass are computed once, on the host in 64-bit
//! floats, and shared by all layers on the CPU device; on the GPU MLX's fast operation computes them where they are used.

use std::f64::consts::PI;

use crate::mlx::{Array, Device, Result, device, dim, from_f32};

/// Which rotation: fixed for a model.
#[derive(Debug)]
pub struct Rope {
    /// Radians per position of each pair; half of the head's size.
    frequencies: Vec<f64>,
    /// Pairs are neighbours (2i, 2i + 1) instead of halves (i, i + D/2).
    traditional: bool,
    /// On the GPU: `1 / frequencies`, as the fast operation wants them.
    periods: Array,
    /// On the CPU: where each element's partner lies.
    partners: Array,
}

/// How a model stretches its trained context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions are divided by this.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `context / low_factor` are low.
        low_factor: f64,
        /// Wavelengths below `context / high_factor` are high.
        high_factor: f64,
        /// Context before stretching, in tokens.
        context: f64,
    },
}

/// The rotation of consecutive positions, shared by the layers of one forward pass.
#[derive(Debug)]
pub struct Angles {
    /// The first position.
    offset: usize,
    /// On the CPU: cosines and signed sines, `[L, D]` each.
    table: Option<(Array, Array)>,
}

impl RopeScaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_factor, high_factor, context } => {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < context / high_factor {
                    return frequency;
                }
                if wavelength > context / low_factor {
                    return frequency / factor;
                }
                let smooth = (context / wavelength - low_factor) / (high_factor - low_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

impl Rope {
    /// A rotation of heads of `width` elements with frequencies `base^(-2i / width)`.
    #[must_use]
    pub fn new(width: usize, base: f64, scaling: RopeScaling, traditional: bool) -> Self {
        let half = width / 2;
        let frequencies: Vec<f64> =
            (0..half).map(|pair| scaling.apply(base.powf(-2.0 * pair as f64 / width as f64))).collect();
        let periods: Vec<f32> = frequencies.iter().map(|frequency| (1.0 / frequency) as f32).collect();
        let partners: Vec<u32> =
            (0..width).map(|at| dim(if traditional { at ^ 1 } else { (at + half) % width }) as u32).collect();
        let periods = from_f32(&periods, &[half]);
        let partners = Array::from_slice(&partners, &[dim(width)]);
        Self { frequencies, traditional, periods, partners }
    }

    /// The rotation of the positions `offset..offset + length`.
    #[must_use]
    pub fn angles(&self, offset: usize, length: usize) -> Angles {
        let table = (device() == Device::Cpu).then(|| self.table(offset, length));
        Angles { offset, table }
    }

    /// Cosines, and sines with the sign that the partner is added with.
    fn table(&self, offset: usize, length: usize) -> (Array, Array) {
        let half = self.frequencies.len();
        let width = 2 * half;
        let (mut cosines, mut sines) = (vec![0.0; length * width], vec![0.0; length * width]);
        for row in 0..length {
            for (pair, frequency) in self.frequencies.iter().enumerate() {
                let (sine, cosine) = ((offset + row) as f64 * frequency).sin_cos();
                let (first, second) = if self.traditional { (2 * pair, 2 * pair + 1) } else { (pair, pair + half) };
                cosines[row * width + first] = cosine as f32;
                cosines[row * width + second] = cosine as f32;
                sines[row * width + first] = -sine as f32;
                sines[row * width + second] = sine as f32;
            }
        }
        (from_f32(&cosines, &[length, width]), from_f32(&sines, &[length, width]))
    }

    /// Rotates `x` `[B, H, L, D]`.
    ///
    /// On the CPU device four operations (`take`, two products, a sum) instead of the chain of fifteen or so that
    /// `fast::rope` falls back to, which recomputes the angles in every layer.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn rotate(&self, x: &Array, angles: &Angles) -> Result<Array> {
        let Some((cosines, sines)) = &angles.table else {
            let width = dim(2 * self.frequencies.len());
            let offset = dim(angles.offset);
            return Ok(mlx_rs::fast::rope(x, width, self.traditional, None, 1.0, offset, &self.periods)?);
        };
        let partner = x.take_axis(&self.partners, -1)?;
        Ok(x.multiply(cosines)?.add(partner.multiply(sines)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::to_f32_vec;

    fn check(scaling: RopeScaling, traditional: bool) {
        let rope = Rope::new(16, 10_000.0, scaling, traditional);
        let values: Vec<f32> = (0..3 * 5 * 16).map(|i| ((i * 29 % 83) as f32 - 41.0) / 20.0).collect();
        let x = from_f32(&values, &[1, 3, 5, 16]);
        let table = Angles { offset: 7, table: Some(rope.table(7, 5)) };
        let fast = Angles { offset: 7, table: None };
        let composed = to_f32_vec(&rope.rotate(&x, &table).expect("fits")).expect("cpu");
        let fast = to_f32_vec(&rope.rotate(&x, &fast).expect("fits")).expect("cpu");
        for (a, b) in composed.iter().zip(&fast) {
            assert!((a - b).abs() < 2e-5, "{scaling:?} {traditional}: {a} and {b}");
        }
    }

    #[test]
    fn the_composition_equals_the_fast_operation() {
        let llama3 = RopeScaling::Llama3 { factor: 8.0, low_factor: 1.0, high_factor: 4.0, context: 64.0 };
        for scaling in [RopeScaling::None, RopeScaling::Linear { factor: 4.0 }, llama3] {
            check(scaling, false);
            check(scaling, true);
        }
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low_factor: 1.0, high_factor: 4.0, context: 8192.0 };
        assert!((scaling.apply(1.0) - 1.0).abs() < 1e-12);
        assert!((scaling.apply(1e-5) - 1e-5 / 8.0).abs() < 1e-15);
        let between = scaling.apply(2.0 * PI / 4096.0);
        assert!(between > 2.0 * PI / 4096.0 / 8.0 && between < 2.0 * PI / 4096.0);
    }
}
