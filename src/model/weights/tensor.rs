//! One tensor as bytes, in one of two representations that every source is brought to, and its numbers in `f32`. It
//! knows no file format and no array library. Rows are independent, so large tensors are converted by several threads.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Tensors with fewer values are converted on the calling thread: starting threads would take longer.
const PARALLEL_VALUES_MIN: usize = 1 << 18;
/// More threads than this wait for memory, not for arithmetic.
const THREADS_MAX: usize = 8;
/// Values of 16 bits converted at a time, so that they stay in the first-level cache.
const HALVES_AT_A_TIME: usize = 1024;

/// The type of floating-point numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// One number from its little-endian bytes.
    fn read(self, bytes: &[u8]) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            Self::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
        }
    }

    /// All numbers of `bytes`.
    fn read_all(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => {
                for (number, bytes) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *number = self.read(bytes);
                }
            }
            Self::F16 => read_halves(bytes, out, f16::from_bits, |from, to| from.convert_to_f32_slice(to)),
            Self::Bf16 => read_halves(bytes, out, bf16::from_bits, |from, to| from.convert_to_f32_slice(to)),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

/// How a tensor is represented; known without touching its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Representation {
    /// Plain floating-point numbers.
    Dense(Dtype),
    /// Groups of small integers with a scale and a bias each, as MLX's affine quantisation has them.
    Affine {
        /// Bits of an integer: 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// Integers that share a scale and a bias.
        group: usize,
        /// Of scales and biases.
        dtype: Dtype,
    },
}

/// One tensor. Bytes are borrowed from the mapped file where the file already has this layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tensor<'a> {
    /// Plain floating-point numbers, row-major, little-endian.
    Dense {
        /// Slowest dimension first.
        shape: Vec<usize>,
        /// Of the numbers.
        dtype: Dtype,
        /// `width` bytes a number.
        bytes: Cow<'a, [u8]>,
    },
    /// `value = integer * scale + bias`, one scale and bias for each `group` integers of a row.
    Affine {
        /// Logical shape: rows (and what is before them), then columns.
        shape: Vec<usize>,
        /// Bits of an integer.
        bits: u8,
        /// Integers that share a scale and a bias.
        group: usize,
        /// Integers as a stream of bits in little-endian 32-bit words, lowest bits first; rows begin at a word.
        packed: Cow<'a, [u8]>,
        /// One for each group, row-major.
        scales: Cow<'a, [u8]>,
        /// One for each group, row-major.
        biases: Cow<'a, [u8]>,
        /// Of scales and biases.
        dtype: Dtype,
    },
}

impl Tensor<'_> {
    /// Slowest dimension first; the logical one for quantised tensors.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense { shape, .. } | Self::Affine { shape, .. } => shape,
        }
    }

    /// Numbers in the tensor.
    #[must_use]
    pub fn values(&self) -> usize {
        self.shape().iter().product()
    }

    /// Writes every number as `f32`, dequantising where needed; `out` has exactly [`Tensor::values`] places.
    pub fn to_f32(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.values(), "one place for each value");
        let columns = self.shape().last().copied().unwrap_or(1);
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_MAX);
        if columns == 0 || out.len() < PARALLEL_VALUES_MIN || threads == 1 {
            return self.rows_to_f32(0, out);
        }
        // A one-dimensional tensor is a single row, and stays on one thread.
        let rows_each = (out.len() / columns).div_ceil(threads).max(1);
        std::thread::scope(|scope| {
            for (part, out) in out.chunks_mut(rows_each * columns).enumerate() {
                scope.spawn(move || self.rows_to_f32(part * rows_each, out));
            }
        });
    }

    /// Writes whole rows, the first of them being row `first` (all dimensions but the last counted together).
    pub fn rows_to_f32(&self, first: usize, out: &mut [f32]) {
        match self {
            Self::Dense { shape, dtype, bytes } => {
                let columns = shape.last().copied().unwrap_or(1);
                let start = first * columns * dtype.width();
                dtype.read_all(&bytes[start..][..out.len() * dtype.width()], out);
            }
            Self::Affine { shape, bits, group, packed, scales, biases, dtype } => {
                let columns = shape.last().copied().unwrap_or(1);
                let row_bytes = columns * usize::from(*bits) / 8;
                let groups = columns / group * dtype.width();
                for (row, out) in (first..).zip(out.chunks_exact_mut(columns)) {
                    let packed = &packed[row * row_bytes..][..row_bytes];
                    let scales = &scales[row * groups..][..groups];
                    let biases = &biases[row * groups..][..groups];
                    dequantise_row(Groups { bits: *bits, group: *group, dtype: *dtype, packed, scales, biases }, out);
                }
            }
        }
    }
}

/// One quantised row.
struct Groups<'a> {
    bits: u8,
    group: usize,
    dtype: Dtype,
    packed: &'a [u8],
    scales: &'a [u8],
    biases: &'a [u8],
}

fn dequantise_row(row: Groups<'_>, out: &mut [f32]) {
    let width = row.dtype.width();
    let coefficients = row.scales.chunks_exact(width).zip(row.biases.chunks_exact(width));
    let packed = row.packed.chunks_exact(row.group * usize::from(row.bits) / 8);
    for ((out, packed), (scale, bias)) in out.chunks_exact_mut(row.group).zip(packed).zip(coefficients) {
        let (scale, bias) = (row.dtype.read(scale), row.dtype.read(bias));
        match row.bits {
            8 => eight_bits(packed, scale, bias, out),
            4 => four_bits(packed, scale, bias, out),
            bits => any_bits(packed, bits, scale, bias, out),
        }
    }
}

/// Written out for four bytes at a time, so that it is quick in unoptimised builds too: tests load real models.
fn eight_bits(packed: &[u8], scale: f32, bias: f32, out: &mut [f32]) {
    for (out, bytes) in out.as_chunks_mut::<4>().0.iter_mut().zip(packed.as_chunks::<4>().0) {
        let [a, b, c, d] = *bytes;
        *out = [a as f32 * scale + bias, b as f32 * scale + bias, c as f32 * scale + bias, d as f32 * scale + bias];
    }
}

/// Written out like [`eight_bits`].
fn four_bits(packed: &[u8], scale: f32, bias: f32, out: &mut [f32]) {
    for (out, bytes) in out.as_chunks_mut::<8>().0.iter_mut().zip(packed.as_chunks::<4>().0) {
        let [a, b, c, d] = *bytes;
        *out = [
            (a & 15) as f32 * scale + bias,
            (a >> 4) as f32 * scale + bias,
            (b & 15) as f32 * scale + bias,
            (b >> 4) as f32 * scale + bias,
            (c & 15) as f32 * scale + bias,
            (c >> 4) as f32 * scale + bias,
            (d & 15) as f32 * scale + bias,
            (d >> 4) as f32 * scale + bias,
        ];
    }
}

/// Integers of 2, 3, 5 and 6 bits: a stream of bits, lowest first.
fn any_bits(packed: &[u8], bits: u8, scale: f32, bias: f32, out: &mut [f32]) {
    let mask = (1_u32 << bits) - 1;
    let mut bytes = packed.iter();
    let (mut held, mut held_bits) = (0_u32, 0);
    for out in out {
        while held_bits < bits {
            held |= u32::from(bytes.next().copied().unwrap_or(0)) << held_bits;
            held_bits += 8;
        }
        *out = (held & mask) as f32 * scale + bias;
        held >>= bits;
        held_bits -= bits;
    }
}

/// Converts 16-bit floats through a small buffer, because the bytes of a mapped file need not be aligned.
fn read_halves<T: Copy>(bytes: &[u8], out: &mut [f32], from_bits: fn(u16) -> T, convert: fn(&[T], &mut [f32])) {
    let mut buffer = [from_bits(0); HALVES_AT_A_TIME];
    let inputs = bytes.chunks(2 * HALVES_AT_A_TIME);
    for (out, bytes) in out.chunks_mut(HALVES_AT_A_TIME).zip(inputs) {
        for (half, bytes) in buffer.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = from_bits(u16::from_le_bytes(*bytes));
        }
        convert(&buffer[..out.len()], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(tensor: &Tensor<'_>) -> Vec<f32> {
        let mut out = vec![0.0; tensor.values()];
        tensor.to_f32(&mut out);
        out
    }

    /// Packs integers the slow way, one bit at a time.
    fn pack(integers: &[u32], bits: u8) -> Vec<u8> {
        let mut packed = vec![0; integers.len() * usize::from(bits) / 8];
        for (index, integer) in integers.iter().enumerate() {
            for bit in 0..usize::from(bits) {
                let place = index * usize::from(bits) + bit;
                packed[place / 8] |= ((integer >> bit & 1) as u8) << (place % 8);
            }
        }
        packed
    }

    #[test]
    fn every_width_of_integers_dequantises_to_integer_times_scale_plus_bias() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let integers: Vec<u32> = (0..3 * 64).map(|i| i * 7 % (1 << bits)).collect();
            let halves = |numbers: [f32; 6]| numbers.map(|number| f16::from_f32(number).to_le_bytes()).concat();
            let (scales, biases) = ([0.5, 0.25, 2.0, -1.0, 0.125, 1.0], [0.0, -1.0, 3.0, 0.5, 8.0, -4.0]);
            let tensor = Tensor::Affine {
                shape: vec![3, 64],
                bits,
                group: 32,
                packed: pack(&integers, bits).into(),
                scales: halves(scales).into(),
                biases: halves(biases).into(),
                dtype: Dtype::F16,
            };
            let expected: Vec<f32> =
                integers.iter().enumerate().map(|(i, q)| *q as f32 * scales[i / 32] + biases[i / 32]).collect();
            assert_eq!(numbers(&tensor), expected, "{bits} bits");
        }
    }

    #[test]
    fn sixteen_bit_floats_of_any_length_and_alignment_convert_exactly() {
        for len in [1, 2, HALVES_AT_A_TIME - 1, HALVES_AT_A_TIME, 2 * HALVES_AT_A_TIME + 3] {
            let expected: Vec<f32> =
                (0..len).map(|i| i as f32 / 64.0 - 3.0).map(|x| bf16::from_f32(x).to_f32()).collect();
            let bytes: Vec<u8> = expected.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
            let tensor = Tensor::Dense { shape: vec![len], dtype: Dtype::Bf16, bytes: bytes.into() };
            assert_eq!(numbers(&tensor), expected);
        }
    }

    #[test]
    fn several_threads_write_what_one_thread_writes() {
        let (rows, columns) = (1031, 512);
        let bytes: Vec<u8> = (0..rows * columns / 2).map(|i| (i * 31 % 251) as u8).collect();
        let coefficients: Vec<u8> = (0..rows * columns / 64).flat_map(|i| (i as f32 / 1000.0).to_le_bytes()).collect();
        let tensor = Tensor::Affine {
            shape: vec![rows, columns],
            bits: 4,
            group: 64,
            packed: bytes.into(),
            scales: coefficients.as_slice().into(),
            biases: coefficients.as_slice().into(),
            dtype: Dtype::F32,
        };
        let mut alone = vec![0.0; rows * columns];
        tensor.rows_to_f32(0, &mut alone);
        assert_eq!(numbers(&tensor), alone);
    }
}
