//! From GGUF's blocks to the affine layout, exactly: `Q4_1` is 4-bit with (d, m), `Q4_0` with (d, −8 d), `Q8_0` is 8-bit
//! with q + 128 and (d, −128 d). Also undoes the order in which GGUF stores the rows of llama's q and k projections.

use std::borrow::Cow;
use std::ops::Range;

use half::f16;

use crate::model::weights::gguf::tensors::{Storage, TensorEntry};
use crate::model::weights::tensor::{Dtype, Representation, Tensor};

/// Values that share a scale in every block type that is supported.
const GROUP: usize = 32;
/// One in each byte of a word.
const LOW_NIBBLES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
/// Turns signed bytes into bytes counted from −128.
const SIGN_BITS: u64 = 0x8080_8080_8080_8080;

/// How the rows of a tensor are ordered in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As the model wants them.
    Plain,
    /// The two halves of each head of this many rows alternate (rotary embedding of pairs instead of halves).
    Interleaved {
        /// Rows of one head; even, and the tensor has a whole number of heads.
        head_rows: usize,
    },
}

impl RowOrder {
    /// The place in the file of the model's row `row`.
    fn source(self, row: usize) -> usize {
        match self {
            Self::Plain => row,
            Self::Interleaved { head_rows } => {
                let (head, within) = (row / head_rows, row % head_rows);
                let (half, index) = (within / (head_rows / 2), within % (head_rows / 2));
                head * head_rows + 2 * index + half
            }
        }
    }
}

/// How a tensor of this storage will be represented. `Q4_0` and `Q8_0` derive a bias from the scale; where that leaves
/// the range of `f16`, scales and biases become `f32`, which only reading the data can tell: see [`present`].
#[must_use]
pub fn representation(storage: Storage) -> Representation {
    match storage {
        Storage::F32 => Representation::Dense(Dtype::F32),
        Storage::F16 => Representation::Dense(Dtype::F16),
        Storage::Bf16 => Representation::Dense(Dtype::Bf16),
        Storage::Q4_0 | Storage::Q4_1 => Representation::Affine { bits: 4, group: GROUP, dtype: Dtype::F16 },
        Storage::Q8_0 => Representation::Affine { bits: 8, group: GROUP, dtype: Dtype::F16 },
    }
}

/// The tensor of `entry`, whose range is inside `file`.
#[must_use]
pub fn present<'a>(file: &'a [u8], entry: &TensorEntry, order: RowOrder) -> Tensor<'a> {
    let data = &file[entry.range.clone()];
    let shape = entry.shape.clone();
    match entry.storage {
        Storage::F32 => dense(shape, Dtype::F32, data, order),
        Storage::F16 => dense(shape, Dtype::F16, data, order),
        Storage::Bf16 => dense(shape, Dtype::Bf16, data, order),
        Storage::Q4_0 => Columns::<16>::centred::<18>(shape, data, order, -8.0, repack_nibbles).into_tensor(4),
        Storage::Q4_1 => Columns::<16>::with_minimum(shape, data, order).into_tensor(4),
        Storage::Q8_0 => Columns::<32>::centred::<34>(shape, data, order, -128.0, repack_bytes).into_tensor(8),
    }
}

fn dense(shape: Vec<usize>, dtype: Dtype, data: &[u8], order: RowOrder) -> Tensor<'_> {
    let bytes = match order {
        RowOrder::Plain => Cow::Borrowed(data),
        RowOrder::Interleaved { .. } => {
            let row_bytes = data.len() / rows(&shape);
            let row = |row| &data[order.source(row) * row_bytes..][..row_bytes];
            Cow::Owned((0..rows(&shape)).flat_map(row).copied().collect())
        }
    };
    Tensor::Dense { shape, dtype, bytes }
}

/// The parts of an affine tensor; `PACKED` bytes of integers a block.
struct Columns<const PACKED: usize> {
    shape: Vec<usize>,
    packed: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
    dtype: Dtype,
}

impl<const PACKED: usize> Columns<PACKED> {
    fn zeros(shape: Vec<usize>, dtype: Dtype) -> Self {
        let blocks = shape.iter().product::<usize>() / GROUP;
        let coefficients = || vec![0; blocks * dtype.width()];
        Self { shape, packed: vec![0; blocks * PACKED], scales: coefficients(), biases: coefficients(), dtype }
    }

    /// Blocks with a scale only: the bias is the scale times the negated centre.
    fn centred<const BYTES: usize>(
        shape: Vec<usize>,
        data: &[u8],
        order: RowOrder,
        negated_centre: f32,
        repack: fn(&[u8], &mut [u8; PACKED]),
    ) -> Self {
        let scale = |block: &[u8; BYTES]| f16::from_le_bytes([block[0], block[1]]);
        let bias = |scale: f16| scale.to_f32() * negated_centre;
        let fits = |block| f16::from_f32(bias(scale(block))).is_finite() || !scale(block).is_finite();
        let dtype = if data.as_chunks().0.iter().all(fits) { Dtype::F16 } else { Dtype::F32 };

        let mut columns = Self::zeros(shape, dtype);
        let width = dtype.width();
        for (index, block) in blocks::<BYTES>(&columns.shape, data, order).enumerate() {
            let scale = scale(block);
            let (scales, biases) = (&mut columns.scales[index * width..], &mut columns.biases[index * width..]);
            match dtype {
                Dtype::F32 => {
                    scales[..4].copy_from_slice(&scale.to_f32().to_le_bytes());
                    biases[..4].copy_from_slice(&bias(scale).to_le_bytes());
                }
                Dtype::F16 | Dtype::Bf16 => {
                    scales[..2].copy_from_slice(&block[..2]);
                    biases[..2].copy_from_slice(&f16::from_f32(bias(scale)).to_le_bytes());
                }
            }
            repack(&block[2..], &mut columns.packed.as_chunks_mut().0[index]);
        }
        columns
    }

    fn into_tensor(self, bits: u8) -> Tensor<'static> {
        let Self { shape, packed, scales, biases, dtype } = self;
        let (packed, scales, biases) = (packed.into(), scales.into(), biases.into());
        Tensor::Affine { shape, bits, group: GROUP, packed, scales, biases, dtype }
    }
}

impl Columns<16> {
    /// `Q4_1`: scale, minimum, nibbles.
    fn with_minimum(shape: Vec<usize>, data: &[u8], order: RowOrder) -> Self {
        let mut columns = Self::zeros(shape, Dtype::F16);
        let packed = columns.packed.as_chunks_mut().0.iter_mut();
        let scales = columns.scales.as_chunks_mut().0.iter_mut();
        let biases = columns.biases.as_chunks_mut().0.iter_mut();
        let targets = packed.zip(scales.zip(biases));
        for (block, (packed, (scale, bias))) in blocks::<20>(&columns.shape, data, order).zip(targets) {
            *scale = [block[0], block[1]];
            *bias = [block[2], block[3]];
            repack_nibbles(&block[4..], packed);
        }
        columns
    }
}

fn rows(shape: &[usize]) -> usize {
    shape[..shape.len() - 1].iter().product()
}

/// All blocks in the order that the model wants.
fn blocks<'a, const BYTES: usize>(
    shape: &[usize],
    data: &'a [u8],
    order: RowOrder,
) -> impl Iterator<Item = &'a [u8; BYTES]> {
    let row_blocks = shape.last().map_or(0, |columns| columns / GROUP);
    let blocks = data.as_chunks::<BYTES>().0;
    let range = move |row| -> Range<usize> { order.source(row) * row_blocks..(order.source(row) + 1) * row_blocks };
    (0..rows(shape)).flat_map(move |row| &blocks[range(row)])
}

/// Sixteen bytes that hold value j in the low and value j + 16 in the high half of byte j become sixteen bytes with
/// values 2 j and 2 j + 1 in byte j. Eight bytes are handled at a time, since this runs over whole models.
fn repack_nibbles(block: &[u8], packed: &mut [u8; 16]) {
    let words = block.as_chunks::<8>().0;
    let [first, second] = [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])];
    let low = join(first & LOW_NIBBLES) | join(second & LOW_NIBBLES) << 32;
    let high = join(first >> 4 & LOW_NIBBLES) | join(second >> 4 & LOW_NIBBLES) << 32;
    *packed = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
}

/// Eight nibbles, one a byte, become four bytes.
fn join(nibbles: u64) -> u64 {
    let pairs = (nibbles | nibbles >> 4) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    (fours | fours >> 16) & 0xffff_ffff
}

fn repack_bytes(block: &[u8], packed: &mut [u8; 32]) {
    for (target, source) in packed.as_chunks_mut().0.iter_mut().zip(block.as_chunks().0) {
        *target = (u64::from_le_bytes(*source) ^ SIGN_BITS).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 2] = [8, 64];

    fn entry(storage: Storage, len: usize) -> TensorEntry {
        TensorEntry { name: "blk.0.attn_q.weight".to_owned(), shape: SHAPE.to_vec(), storage, range: 0..len }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 73 % 255) as u8).collect()
    }

    /// Blocks with arbitrary contents, and scales that are ordinary numbers.
    fn data(storage: Storage, scale: f32) -> Vec<u8> {
        let block_bytes = storage.block_bytes() as usize;
        let mut data = bytes(SHAPE[0] * SHAPE[1] / 32 * block_bytes);
        for (index, block) in data.chunks_exact_mut(block_bytes).enumerate() {
            block[..2].copy_from_slice(&f16::from_f32(scale * (index as f32 - 3.0)).to_le_bytes());
            if storage == Storage::Q4_1 {
                block[2..4].copy_from_slice(&f16::from_f32(0.25 - index as f32).to_le_bytes());
            }
        }
        data
    }

    /// Each format as its definition has it, one value at a time.
    fn plainly(storage: Storage, data: &[u8]) -> Vec<f32> {
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let nibble = |quants: &[u8], i: usize| f32::from(if i < 16 { quants[i] & 15 } else { quants[i - 16] >> 4 });
        let block = |block: &[u8]| -> Vec<f32> {
            let value = |i: usize| match storage {
                Storage::Q4_0 => (nibble(&block[2..], i) - 8.0) * half(block),
                Storage::Q4_1 => nibble(&block[4..], i) * half(block) + half(&block[2..]),
                Storage::Q8_0 => f32::from(block[2 + i] as i8) * half(block),
                Storage::F32 | Storage::F16 | Storage::Bf16 => unreachable!("only block types are asked for"),
            };
            (0..32).map(value).collect()
        };
        data.chunks_exact(storage.block_bytes() as usize).flat_map(block).collect()
    }

    fn presented(storage: Storage, data: &[u8], order: RowOrder) -> (Vec<f32>, Representation) {
        let tensor = present(data, &entry(storage, data.len()), order);
        let mut out = vec![0.0; tensor.values()];
        tensor.to_f32(&mut out);
        let representation = match tensor {
            Tensor::Dense { dtype, .. } => Representation::Dense(dtype),
            Tensor::Affine { bits, group, dtype, .. } => Representation::Affine { bits, group, dtype },
        };
        (out, representation)
    }

    #[test]
    fn every_block_type_keeps_its_numbers_to_the_bit() {
        for storage in [Storage::Q4_0, Storage::Q4_1, Storage::Q8_0] {
            let data = data(storage, 0.013);
            let (numbers, found) = presented(storage, &data, RowOrder::Plain);
            assert_eq!(numbers, plainly(storage, &data), "{storage}");
            assert_eq!(found, representation(storage), "{storage}");
        }
    }

    #[test]
    fn scales_whose_bias_leaves_half_precision_are_presented_in_single() {
        for storage in [Storage::Q4_0, Storage::Q8_0] {
            let data = data(storage, 3000.0);
            let (numbers, found) = presented(storage, &data, RowOrder::Plain);
            assert_eq!(numbers, plainly(storage, &data), "{storage}");
            assert!(matches!(found, Representation::Affine { dtype: Dtype::F32, .. }), "{storage}");
        }
    }

    #[test]
    fn interleaved_rows_come_back_as_two_halves_in_every_storage() {
        let order = RowOrder::Interleaved { head_rows: 4 };
        let wanted = [0, 2, 1, 3, 4, 6, 5, 7];
        for storage in [Storage::Q4_0, Storage::Q4_1, Storage::Q8_0] {
            let data = data(storage, 0.5);
            let plain = plainly(storage, &data);
            let expected: Vec<f32> = wanted.iter().flat_map(|row| plain[row * 64..][..64].to_vec()).collect();
            assert_eq!(presented(storage, &data, order).0, expected, "{storage}");
        }
        let data = bytes(8 * 64 * 4);
        let Tensor::Dense { bytes: found, .. } = present(&data, &entry(Storage::F32, data.len()), order) else {
            panic!("F32 is dense");
        };
        let expected: Vec<u8> = wanted.iter().flat_map(|row| data[row * 256..][..256].to_vec()).collect();
        assert_eq!(*found, expected);
    }
}
