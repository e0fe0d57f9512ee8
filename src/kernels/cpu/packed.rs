//! Weights in the order in which the product reads them: panels of [`PANEL`] outputs, inside a panel one group of inputs
//! after the other, and of a group the scales, the biases and then the integers, a 32-bit word of each output at a time.
//! A thread that computes a panel reads one run of memory from its start to its end.
//!
//! The integers stay as they are in the file, 4 or 8 bits (others are widened, which is exact), and so do the scales.

use crate::kernels::cpu::pool::{PARTS_MAX, pool};
use crate::mlx::{Array, Dtype, Result, filled};

/// Outputs of a panel; the last panel is filled up with zeros.
pub(super) const PANEL: usize = 32;
/// Panels begin at cache lines.
const ALIGNMENT: usize = 64;

/// The type of a stored float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Real {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

/// Rows of a matrix as a file has them, one output a row, little-endian.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Floats.
    Dense {
        /// Their type.
        real: Real,
        /// Row-major.
        bytes: &'a [u8],
    },
    /// `integer · scale + bias`.
    Affine {
        /// Bits of an integer: 2, 3, 4, 5, 6 or 8.
        bits: usize,
        /// Inputs that share a scale and a bias; a multiple of 32.
        group: usize,
        /// Integers of a row as a stream of bits, lowest first.
        packed: &'a [u8],
        /// One a group.
        scales: &'a [u8],
        /// One a group.
        biases: &'a [u8],
        /// The type of scales and biases.
        real: Real,
    },
}

/// How weights are coded; with the sizes it says where everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Dense(Real),
    /// `bits` is 4 or 8.
    Affine {
        bits: usize,
        group: usize,
        real: Real,
    },
}

/// The sizes and the coding of a packed matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) coding: Coding,
}

/// A matrix for the kernels of the CPU.
#[derive(Debug)]
pub struct Packed {
    pub(super) layout: Layout,
    pub(super) data: Array,
}

impl Real {
    pub(super) fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl Coding {
    fn of(rows: &Rows<'_>) -> Self {
        match *rows {
            Rows::Dense { real, .. } => Self::Dense(real),
            Rows::Affine { bits, group, real, .. } => Self::Affine { bits: if bits <= 4 { 4 } else { 8 }, group, real },
        }
    }
}

impl Layout {
    pub(super) fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    pub(super) fn panel_bytes(&self) -> usize {
        match self.coding {
            Coding::Dense(real) => self.inputs * PANEL * real.width(),
            Coding::Affine { bits, group, real } => self.inputs / group * group_bytes(bits, group, real),
        }
    }

    /// The first panel in the array's buffer.
    ///
    /// # Safety
    /// `buffer` is that of [`Packed::data`].
    pub(super) unsafe fn base(buffer: *mut u8) -> *mut u8 {
        // SAFETY: the buffer has this much room before the panels.
        unsafe { buffer.add(buffer.align_offset(ALIGNMENT)) }
    }
}

/// Bytes of a group of a panel.
pub(super) fn group_bytes(bits: usize, group: usize, real: Real) -> usize {
    PANEL * (2 * real.width() + group * bits / 8)
}

/// Where a thread writes its panel.
struct Place(*mut u8);

// SAFETY: each panel is written by one thread.
unsafe impl Sync for Place {}

impl Packed {
    /// Packs `[outputs, inputs]`, by all threads.
    ///
    /// # Errors
    /// The memory was refused.
    pub fn new(outputs: usize, inputs: usize, rows: &Rows<'_>) -> Result<Self> {
        let layout = Layout { outputs, inputs, coding: Coding::of(rows) };
        if let Coding::Affine { group, .. } = layout.coding {
            assert!(group.is_multiple_of(32) && inputs.is_multiple_of(group), "{inputs} inputs in groups of {group}");
        }
        let (panels, bytes) = (layout.panels(), layout.panel_bytes());
        let data = filled(&[panels * bytes + ALIGNMENT], Dtype::Uint8, |buffer| {
            // SAFETY: the buffer of the data, as long as it must be.
            let base = Place(unsafe { Layout::base(buffer.as_mut_ptr()) });
            let panels_each = panels.div_ceil(PARTS_MAX).max(1);
            pool().run(panels.div_ceil(panels_each), &|part| {
                let base = &base;
                for panel in part * panels_each..((part + 1) * panels_each).min(panels) {
                    // SAFETY: inside the buffer, and no other part has this panel.
                    let out = unsafe { std::slice::from_raw_parts_mut(base.0.add(panel * bytes), bytes) };
                    layout.pack(rows, panel, out);
                }
            });
            Ok::<_, crate::mlx::MlxError>(())
        })?;
        Ok(Self { layout, data })
    }

    /// Inputs of the matrix.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.layout.inputs
    }

    /// Outputs of the matrix.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.layout.outputs
    }

    /// The array that holds it.
    #[must_use]
    pub fn data(&self) -> &Array {
        &self.data
    }
}

impl Layout {
    fn pack(&self, rows: &Rows<'_>, panel: usize, out: &mut [u8]) {
        let first = panel * PANEL;
        let count = PANEL.min(self.outputs - first);
        match (rows, self.coding) {
            (Rows::Dense { bytes, .. }, Coding::Dense(real)) => {
                let width = real.width();
                interleave(&bytes[first * self.inputs * width..][..count * self.inputs * width], count, width, out);
            }
            (Rows::Affine { bits: stored, packed, scales, biases, .. }, Coding::Affine { bits, group, real }) => {
                let row_bytes = self.inputs * stored / 8;
                let packed = &packed[first * row_bytes..][..count * row_bytes];
                let widened = (*stored != bits).then(|| widen(packed, *stored, bits));
                let packed = widened.as_deref().unwrap_or(packed);
                let coefficients = self.inputs / group * real.width();
                let part = |bytes: &'_ [u8]| bytes[first * coefficients..][..count * coefficients].to_vec();
                let (scales, biases) = (part(scales), part(biases));
                let (row_words, each) = (packed.len() / count, group * bits / 8);
                for (index, out) in out.chunks_exact_mut(group_bytes(bits, group, real)).enumerate() {
                    let (head, words) = out.split_at_mut(2 * PANEL * real.width());
                    let (scales_out, biases_out) = head.split_at_mut(PANEL * real.width());
                    for lane in 0..count {
                        let from = lane * coefficients + index * real.width();
                        let to = lane * real.width()..(lane + 1) * real.width();
                        scales_out[to.clone()].copy_from_slice(&scales[from..][..real.width()]);
                        biases_out[to].copy_from_slice(&biases[from..][..real.width()]);
                        let row = &packed[lane * row_words + index * each..][..each];
                        for (word, bytes) in row.as_chunks::<4>().0.iter().enumerate() {
                            words[(word * PANEL + lane) * 4..][..4].copy_from_slice(bytes);
                        }
                    }
                }
            }
            (Rows::Dense { .. }, Coding::Affine { .. }) | (Rows::Affine { .. }, Coding::Dense(_)) => {
                unreachable!("the coding is that of the rows")
            }
        }
    }
}

/// Elements of `width` bytes of `count` rows, an element of each row at a time.
fn interleave(rows: &[u8], count: usize, width: usize, out: &mut [u8]) {
    let row_bytes = rows.len() / count;
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        for (index, element) in row.chunks_exact(width).enumerate() {
            out[(index * PANEL + lane) * width..][..width].copy_from_slice(element);
        }
    }
}

/// A stream of integers of `from` bits as one of `to` bits.
fn widen(packed: &[u8], from: usize, to: usize) -> Vec<u8> {
    let integers = packed.len() * 8 / from;
    let mut out = vec![0; integers * to / 8];
    for index in 0..integers {
        let bit = index * from;
        let low = u16::from(packed[bit / 8]);
        let high = packed.get(bit / 8 + 1).copied().map_or(0, u16::from);
        let value = (high << 8 | low) >> (bit % 8) & ((1 << from) - 1);
        out[index * to / 8] |= (value as u8) << (index * to % 8);
    }
    out
}
