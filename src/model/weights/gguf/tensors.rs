//! The tensor table of a GGUF file: names, shapes, types and where the data lies. After `read` every range is inside
//! the file, no two overlap, and every shape is worth exactly its range.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use crate::model::weights::error::Flaw;
use crate::model::weights::gguf::reader::Reader;

/// Most tensors in one file.
pub const TENSORS_MAX: u64 = 100_000;
/// Longest tensor name; the format says 64, and some writers go beyond.
pub const NAME_BYTES_MAX: u64 = 256;
/// Most dimensions, as the format says.
pub const DIMENSIONS_MAX: u32 = 4;
/// Name length, one character, dimension count, one dimension, type, offset.
const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Brain floats.
    Bf16,
    /// 32 values of 4 bits, a scale; centred on 8.
    Q4_0,
    /// 32 values of 4 bits, a scale, a minimum.
    Q4_1,
    /// 32 signed values of 8 bits, a scale.
    Q8_0,
}

impl Storage {
    const SUPPORTED: &str = "F32, F16, BF16, Q4_0, Q4_1 or Q8_0";

    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Values that are stored together.
    #[must_use]
    pub fn block_values(self) -> u64 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
        }
    }

    /// Bytes of such a block.
    #[must_use]
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q8_0 => 2 + 32,
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
        })
    }
}

/// The name under which people know a type that is not supported.
fn foreign_name(code: u32) -> String {
    let name = match code {
        6 => "Q5_0",
        7 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        16..=23 | 29 => "an IQ type",
        39 => "MXFP4",
        _ => return format!("type {code}"),
    };
    format!("type {code} ({name})")
}

/// One entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// As the file has it, `blk.0.attn_q.weight` for example.
    pub name: String,
    /// Slowest dimension first (the file has it the other way round); 1–4 dimensions, none of them 0.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub storage: Storage,
    /// Where the data lies, counted from the start of the file.
    pub range: Range<usize>,
}

/// Reads the number of tensors, which the header has before the metadata.
pub(super) fn read_count(reader: &mut Reader<'_>) -> Result<usize, Flaw> {
    reader.count(TENSORS_MAX, TENSOR_BYTES_MIN, &"number of tensors")
}

/// Reads the table, which the data follows at the next multiple of `alignment`.
pub(super) fn read(reader: &mut Reader<'_>, count: usize, alignment: u64) -> Result<Vec<TensorEntry>, Flaw> {
    let mut entries = Vec::with_capacity(count);
    let mut names = HashSet::with_capacity(count);
    for index in 0..count {
        let entry = read_entry(reader, index, count, alignment)?;
        if !names.insert(entry.name.clone()) {
            return Err(Flaw::Duplicate { what: format!("tensor {:?}", entry.name) });
        }
        entries.push(entry);
    }
    place(&mut entries, reader, alignment)?;
    Ok(entries)
}

fn read_entry(reader: &mut Reader<'_>, index: usize, count: usize, alignment: u64) -> Result<TensorEntry, Flaw> {
    let name = reader.text(NAME_BYTES_MAX, &format_args!("name of tensor {index} of {count}"))?;
    let what = format!("tensor {name:?}");
    let dimensions = reader.u32(&format_args!("{what}, number of dimensions"))?;
    if dimensions == 0 || dimensions > DIMENSIONS_MAX {
        let what = format_args!("{what}, number of dimensions").to_string();
        return Err(Flaw::unexpected(what, format_args!("1 to {DIMENSIONS_MAX}"), dimensions));
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for dimension in 0..dimensions {
        shape.push(reader.u64(&format_args!("{what}, dimension {dimension}"))?);
    }
    let code = reader.u32(&format_args!("{what}, type"))?;
    let storage =
        Storage::from_code(code).ok_or_else(|| Flaw::unsupported(&what, foreign_name(code), Storage::SUPPORTED))?;
    let offset = reader.u64(&format_args!("{what}, offset"))?;
    if !offset.is_multiple_of(alignment) {
        return Err(Flaw::unexpected(
            format_args!("{what}, offset"),
            format_args!("a multiple of {alignment}"),
            offset,
        ));
    }
    let bytes = data_bytes(&what, &shape, storage)?;
    let end = offset
        .checked_add(bytes)
        .filter(|end| usize::try_from(*end).is_ok())
        .ok_or_else(|| Flaw::unexpected(format_args!("{what}, offset"), "data that ends inside the file", offset))?;
    shape.reverse();
    let shape = shape.into_iter().map(|extent| extent as usize).collect();
    Ok(TensorEntry { name: name.to_owned(), shape, storage, range: offset as usize..end as usize })
}

/// Bytes that a tensor of this shape takes; `shape` has the fastest dimension first.
fn data_bytes(what: &str, shape: &[u64], storage: Storage) -> Result<u64, Flaw> {
    let product = shape.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent));
    let bytes = product
        .filter(|values| *values > 0)
        .and_then(|values| (values / storage.block_values()).checked_mul(storage.block_bytes()))
        .ok_or_else(|| {
            Flaw::unexpected(
                format_args!("{what}, shape"),
                "dimensions above 0 whose product fits 64 bits",
                format_args!("{shape:?}"),
            )
        })?;
    if !shape[0].is_multiple_of(storage.block_values()) {
        return Err(Flaw::unexpected(
            format_args!("{what}, shape"),
            format_args!("rows of a multiple of {} values for {storage}", storage.block_values()),
            shape[0],
        ));
    }
    Ok(bytes)
}

/// Turns offsets into places in the file, and checks that they are inside it and apart.
fn place(entries: &mut [TensorEntry], reader: &Reader<'_>, alignment: u64) -> Result<(), Flaw> {
    let table_end = reader.position() as u64;
    let file_bytes = table_end + reader.left();
    let start = table_end.next_multiple_of(alignment);
    for entry in entries.iter_mut() {
        let end = start.checked_add(entry.range.end as u64).filter(|end| *end <= file_bytes);
        if end.is_none() {
            return Err(Flaw::unexpected(
                format_args!("tensor {:?}, data", entry.name),
                format_args!("an end within the {file_bytes} bytes of the file"),
                format_args!("offset {} and {} bytes", entry.range.start, entry.range.len()),
            ));
        }
        let start = start as usize;
        entry.range = start + entry.range.start..start + entry.range.end;
    }
    let mut order: Vec<&TensorEntry> = entries.iter().collect();
    order.sort_by_key(|entry| entry.range.start);
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => Err(Flaw::Overlap { first: pair[0].name.clone(), second: pair[1].name.clone() }),
        None => Ok(()),
    }
}
