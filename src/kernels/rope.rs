//! Rotary position embedding. The angles of the positions of one forward pass are computed once, on the host in 64-bit
//! floats, and shared by all layers on the CPU device; on the GPU MLX's fast operation computes them where they are used.

use std::f64::consts::PI;
use std::sync::Arc;

use crate::kernels::cpu::Table;
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

/// The rotation of the tokens of one forward pass, shared by its layers.
#[derive(Debug)]
pub struct Angles {
    /// On the CPU.
    pub(in crate::kernels) table: Option<Arc<Table>>,
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
        let periods = from_f32(&periods, &[half]);
        Self { frequencies, traditional, periods }
    }

    /// The rotation of spans of consecutive positions, one after the other: the first position and the length of each.
    #[must_use]
    pub fn angles(&self, spans: &[(usize, usize)]) -> Angles {
        Angles { table: (device() == Device::Cpu).then(|| Arc::new(self.table(spans))) }
    }

    fn table(&self, spans: &[(usize, usize)]) -> Table {
        let positions = || spans.iter().flat_map(|&(first, length)| first..first + length);
        let angles = || positions().flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f));
        Table {
            cosines: angles().map(|angle| angle.cos() as f32).collect(),
            sines: angles().map(|angle| angle.sin() as f32).collect(),
            traditional: self.traditional,
        }
    }

    /// Rotates `x` `[B, H, L, D]`, whose first token has the position `offset`, by MLX's operation.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub(in crate::kernels) fn rotate(&self, x: &Array, offset: usize) -> Result<Array> {
        let width = dim(2 * self.frequencies.len());
        Ok(mlx_rs::fast::rope(x, width, self.traditional, None, 1.0, dim(offset), &self.periods)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low_factor: 1.0, high_factor: 4.0, context: 8192.0 };
        assert!((scaling.apply(1.0) - 1.0).abs() < 1e-12);
        assert!((scaling.apply(1e-5) - 1e-5 / 8.0).abs() < 1e-15);
        let between = scaling.apply(2.0 * PI / 4096.0);
        assert!(between > 2.0 * PI / 4096.0 / 8.0 && between < 2.0 * PI / 4096.0);
    }
}
