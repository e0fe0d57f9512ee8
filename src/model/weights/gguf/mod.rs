//! GGUF: header, metadata and tensor table, read by a parser that checks before it allocates. MLX's own reader dies by
//! SIGSEGV on a damaged header; this one is a function of the bytes, has no `unsafe`, and every count, length, offset
//! and type is bounded by a const or by what the file can hold. It refuses to know what the tensors mean: `llama`,
//! `vocabulary` and `blocks` do.

pub mod blocks;
pub mod llama;
pub mod metadata;
mod reader;
mod rope;
pub mod tensors;
pub mod vocabulary;

use crate::model::weights::error::Flaw;
use crate::model::weights::gguf::metadata::Metadata;
use crate::model::weights::gguf::reader::Reader;
use crate::model::weights::gguf::tensors::TensorEntry;

/// The first four bytes.
const MAGIC: &[u8; 4] = b"GGUF";
/// Versions with this layout; 1 had 32-bit counts and has not been written since 2023.
const VERSIONS: [u32; 2] = [2, 3];
/// Where data begins and tensors lie, unless `general.alignment` says otherwise.
const ALIGNMENT_DEFAULT: u32 = 32;
/// Largest alignment that is believed.
const ALIGNMENT_MAX: u32 = 1 << 16;

/// What a GGUF file says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// Configuration, vocabulary and template.
    pub metadata: Metadata,
    /// Where each tensor lies, in the order of the file.
    pub tensors: Vec<TensorEntry>,
}

/// Reads everything but the data.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(file: &[u8]) -> Result<Gguf, Flaw> {
    let mut reader = Reader::new(file);
    let magic = reader.take(MAGIC.len() as u64, &"magic")?;
    if magic != MAGIC {
        return Err(Flaw::unexpected("magic", "\"GGUF\"", format_args!("\"{}\"", magic.escape_ascii())));
    }
    let version = reader.u32(&"version")?;
    if VERSIONS.contains(&version.swap_bytes()) {
        return Err(Flaw::unsupported("version", "a big-endian file", "little-endian"));
    }
    if !VERSIONS.contains(&version) {
        return Err(Flaw::unexpected("version", "2 or 3", version));
    }
    let tensor_count = tensors::read_count(&mut reader)?;
    let key_count = Metadata::read_count(&mut reader)?;
    let metadata = Metadata::read(&mut reader, key_count)?;
    let alignment = metadata.u32("general.alignment")?.unwrap_or(ALIGNMENT_DEFAULT);
    if !alignment.is_power_of_two() || !(8..=ALIGNMENT_MAX).contains(&alignment) {
        let expected = format_args!("a power of two from 8 to {ALIGNMENT_MAX}").to_string();
        return Err(Flaw::unexpected("key \"general.alignment\"", expected, alignment));
    }
    let tensors = tensors::read(&mut reader, tensor_count, u64::from(alignment))?;
    Ok(Gguf { metadata, tensors })
}
