//! How keys and values are stored: which arrays a layer of one sequence has for them. It owns their shapes and what is
//! written into them by MLX's operations; `cpu::append` writes the same. It refuses to know positions: the third axis of
//! every array counts them, and that is all that a cache needs to know.

use mlx_rs::ops::{quantize, zeros_dtype};

use crate::kernels::Heads;
use crate::mlx::{Array, Dtype, Result, dim};

/// Bits of a word that integers are packed into.
const WORD_BITS: usize = 32;
/// Elements that share a scale and a bias, the most first: what MLX's kernels take.
const GROUPS: [usize; 2] = [64, 32];

/// How the elements of keys and values are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// As they are computed: one array.
    #[default]
    Plain,
    /// As integers, in groups along the head: `integer · scale + bias`, by MLX's rule; arrays of packed integers, scales and
    /// biases. What was a number of its own in a group that holds one that is not finite is lost with it.
    Affine {
        /// Of an integer.
        bits: Bits,
        /// Elements that share a scale and a bias.
        group: usize,
    },
}

/// The sizes of integers that keys and values are coded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Sixteen steps from a group's smallest element to its largest.
    Four,
    /// 256 steps.
    Eight,
}

impl Bits {
    /// As a number.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

impl Coding {
    /// Integers for heads of `width` elements; `None` where groups do not fit such heads.
    #[must_use]
    pub fn affine(bits: Bits, width: usize) -> Option<Self> {
        let group = GROUPS.into_iter().find(|group| width.is_multiple_of(*group))?;
        Some(Self::Affine { bits, group })
    }

    /// Arrays for so many positions, each `[1, 2K, positions, …]`: the keys of K heads, and then their values. Lazy.
    ///
    /// # Errors
    /// The memory was refused.
    pub fn empty(self, heads: Heads, dtype: Dtype, positions: usize) -> Result<Vec<Array>> {
        let one = |width: usize, dtype: Dtype| -> Result<Array> {
            Ok(zeros_dtype(&[1, dim(2 * heads.keys), dim(positions), dim(width)], dtype)?.contiguous()?)
        };
        match self {
            Self::Plain => Ok(vec![one(heads.width, dtype)?]),
            Self::Affine { bits, group } => {
                let groups = heads.width / group;
                Ok(vec![
                    one(heads.width * bits.count() / WORD_BITS, Dtype::Uint32)?,
                    one(groups, dtype)?,
                    one(groups, dtype)?,
                ])
            }
        }
    }

    /// `x` `[…, D]` as it is stored, by MLX's operations.
    pub(in crate::kernels) fn encode(self, x: Array) -> Result<Vec<Array>> {
        match self {
            Self::Plain => Ok(vec![x]),
            Self::Affine { bits, group } => {
                let (packed, scales, biases) = quantize(x, dim(group), dim(bits.count()))?;
                Ok(vec![packed, scales, biases])
            }
        }
    }
}
