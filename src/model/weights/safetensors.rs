//! The safetensors format: eight bytes of header length, a JSON header, data. The header is checked before it is
//! believed: its size, duplicate names, types, shapes against byte lengths, and data that is laid without overlap and
//! without holes, as the format demands. A function of the bytes; it refuses to know what the tensors mean.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::model::weights::error::Flaw;
use crate::model::weights::tensor::Dtype;

/// Largest header, as the reference implementation has it.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Most tensors in one file.
pub const TENSORS_MAX: usize = 100_000;
/// Most dimensions of one tensor.
pub const DIMENSIONS_MAX: usize = 8;
/// The header's length comes first.
const LENGTH_BYTES: usize = 8;

/// The types that files have; only some can be computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms)] // The format's own spelling, which errors repeat.
pub enum Type {
    /// One byte, 0 or 1.
    BOOL,
    /// Unsigned, one byte.
    U8,
    /// Signed, one byte.
    I8,
    /// Floating point, one byte, five bits of exponent.
    F8_E5M2,
    /// Floating point, one byte, four bits of exponent.
    F8_E4M3,
    /// Exponents of microscaled formats.
    F8_E8M0,
    /// Unsigned, two bytes.
    U16,
    /// Signed, two bytes.
    I16,
    /// Half precision.
    F16,
    /// Brain float.
    BF16,
    /// Unsigned, four bytes; MLX packs quantised integers into them.
    U32,
    /// Signed, four bytes.
    I32,
    /// Single precision.
    F32,
    /// Unsigned, eight bytes.
    U64,
    /// Signed, eight bytes.
    I64,
    /// Double precision.
    F64,
}

impl Type {
    /// Bytes of one element.
    #[must_use]
    pub fn width(self) -> u64 {
        match self {
            Self::BOOL | Self::U8 | Self::I8 | Self::F8_E5M2 | Self::F8_E4M3 | Self::F8_E8M0 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// As a type that can be computed with.
    #[must_use]
    pub fn float(self) -> Option<Dtype> {
        match self {
            Self::F32 => Some(Dtype::F32),
            Self::F16 => Some(Dtype::F16),
            Self::BF16 => Some(Dtype::Bf16),
            Self::BOOL | Self::U8 | Self::I8 | Self::F8_E5M2 | Self::F8_E4M3 | Self::F8_E8M0 => None,
            Self::U16 | Self::I16 | Self::U32 | Self::I32 | Self::U64 | Self::I64 | Self::F64 => None,
        }
    }
}

/// One tensor of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Of the elements.
    pub kind: Type,
    /// Slowest dimension first; none of them is limited to be above 0 by the format.
    pub shape: Vec<usize>,
    /// Where the data lies, counted from the start of the file.
    pub range: Range<usize>,
}

/// Reads the header and checks that it describes the file.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(file: &[u8]) -> Result<BTreeMap<String, TensorEntry>, Flaw> {
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        let needed = LENGTH_BYTES as u64;
        return Err(Flaw::Truncated { what: "header length".to_owned(), needed, left: file.len() as u64 });
    };
    let length = u64::from_le_bytes(*length);
    if length > HEADER_BYTES_MAX {
        return Err(Flaw::TooMany { what: "header length in bytes".to_owned(), max: HEADER_BYTES_MAX, found: length });
    }
    let Some((header, data)) = rest.split_at_checked(length as usize) else {
        return Err(Flaw::Truncated { what: "header".to_owned(), needed: length, left: rest.len() as u64 });
    };
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| Flaw::unexpected("header", "a JSON object of tensors", error))?;
    let start = LENGTH_BYTES + length as usize;
    let mut entries = BTreeMap::new();
    for (name, raw) in header.0 {
        let entry = raw.check(&name, data.len() as u64, start)?;
        entries.insert(name, entry);
    }
    contiguous(&entries, start..file.len())?;
    Ok(entries)
}

/// The header as it is written, with names checked for duplicates while they are read.
struct Header(BTreeMap<String, RawTensor>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: Type,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                // Free text by the writer: checked, not kept.
                if metadata.replace(map.next_value::<BTreeMap<String, String>>()?).is_some() {
                    return Err(A::Error::custom("key \"__metadata__\" is there twice"));
                }
                continue;
            }
            if tensors.len() == TENSORS_MAX {
                return Err(A::Error::custom(format_args!("more than {TENSORS_MAX} tensors")));
            }
            let value = map
                .next_value::<RawTensor>()
                .map_err(|error| A::Error::custom(format_args!("tensor {name:?}: {error}")))?;
            match tensors.entry(name) {
                Slot::Vacant(vacant) => vacant.insert(value),
                Slot::Occupied(slot) => {
                    return Err(A::Error::custom(format_args!("tensor {:?} is there twice", slot.key())));
                }
            };
        }
        Ok(Header(tensors))
    }
}

impl RawTensor {
    fn check(self, name: &str, data_bytes: u64, start: usize) -> Result<TensorEntry, Flaw> {
        let [begin, end] = self.data_offsets;
        if begin > end || end > data_bytes {
            return Err(Flaw::unexpected(
                format_args!("tensor {name:?}, data_offsets"),
                format_args!("a range within {data_bytes} bytes of data"),
                format_args!("[{begin}, {end}]"),
            ));
        }
        if self.shape.len() > DIMENSIONS_MAX {
            let what = format!("tensor {name:?}, number of dimensions");
            return Err(Flaw::TooMany { what, max: DIMENSIONS_MAX as u64, found: self.shape.len() as u64 });
        }
        let values = self.shape.iter().try_fold(1_u64, |product, extent| product.checked_mul(*extent));
        let bytes = values.and_then(|values| values.checked_mul(self.dtype.width()));
        let fits = self.shape.iter().all(|extent| usize::try_from(*extent).is_ok());
        if bytes != Some(end - begin) || !fits {
            return Err(Flaw::unexpected(
                format_args!("tensor {name:?}, shape"),
                format_args!("{} bytes of {:?}", end - begin, self.dtype),
                format_args!("{:?}", self.shape),
            ));
        }
        let shape = self.shape.into_iter().map(|extent| extent as usize).collect();
        Ok(TensorEntry { kind: self.dtype, shape, range: start + begin as usize..start + end as usize })
    }
}

/// The data of all tensors, laid end to end, is exactly the rest of the file.
fn contiguous(entries: &BTreeMap<String, TensorEntry>, data: Range<usize>) -> Result<(), Flaw> {
    let mut order: Vec<(&String, &Range<usize>)> = entries.iter().map(|(name, entry)| (name, &entry.range)).collect();
    order.sort_by_key(|(_, range)| (range.start, range.end));
    let mut end = data.start;
    let mut before: Option<&String> = None;
    for (name, range) in order {
        if let Some(first) = before.filter(|_| range.start < end) {
            return Err(Flaw::Overlap { first: first.clone(), second: name.clone() });
        }
        if range.start > end {
            let what = format!("tensor {name:?}, data_offsets");
            return Err(Flaw::unexpected(what, "data that follows the previous tensor's", gap(range.start - end)));
        }
        end = range.end;
        before = Some(name);
    }
    if end < data.end {
        return Err(Flaw::unexpected("data", "every byte to belong to a tensor", gap(data.end - end)));
    }
    Ok(())
}

fn gap(bytes: usize) -> String {
    format!("a gap of {bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![7; data]].concat()
    }

    fn refusal(header: &str, data: usize) -> String {
        parse(&file(header, data)).expect_err("damaged").to_string()
    }

    #[test]
    fn a_header_that_describes_the_file_is_read() {
        let header = r#"{"__metadata__":{"format":"mlx"},
            "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"a":{"dtype":"U32","shape":[2],"data_offsets":[0,8]}}"#;
        let entries = parse(&file(header, 20)).expect("sound");
        let start = LENGTH_BYTES + header.len();
        assert_eq!(entries["a"], TensorEntry { kind: Type::U32, shape: vec![2], range: start..start + 8 });
        assert_eq!(entries["b"], TensorEntry { kind: Type::BF16, shape: vec![2, 3], range: start + 8..start + 20 });
    }

    #[test]
    fn a_file_without_tensors_is_sound() {
        assert!(parse(&file("{}", 0)).expect("sound").is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let tensor = |name: &str, dtype: &str, shape: &str, offsets: &str| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
        };
        let one = |dtype: &str, shape: &str, offsets: &str| format!("{{{}}}", tensor("a", dtype, shape, offsets));
        let two = |first: &str, second: &str| {
            format!("{{{},{}}}", tensor("a", "U8", "[4]", first), tensor("b", "U8", "[4]", second))
        };
        for (header, data, expected) in [
            (one("F32", "[2]", "[0,8]"), 7, "tensor \"a\", data_offsets: expected a range within 7 bytes"),
            (one("F32", "[2]", "[8,0]"), 8, "tensor \"a\", data_offsets"),
            (one("F32", "[3]", "[0,8]"), 8, "tensor \"a\", shape: expected 8 bytes of F32, found [3]"),
            (one("F32", "[4294967296,4294967296]", "[0,0]"), 0, "tensor \"a\", shape"),
            (one("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "expected at most 8, found 9"),
            (one("Q4", "[2]", "[0,8]"), 8, "unknown variant `Q4`"),
            (one("F32", "[-2]", "[0,8]"), 8, "tensor \"a\": invalid value: integer `-2`"),
            (two("[0,4]", "[2,6]"), 6, "tensor \"b\": expected data of its own, found an overlap with \"a\""),
            (two("[0,4]", "[5,9]"), 9, "tensor \"b\", data_offsets: expected data that follows"),
            (two("[0,4]", "[4,8]"), 9, "data: expected every byte to belong to a tensor, found a gap of 1 bytes"),
            (format!("{{{0},{0}}}", tensor("a", "U8", "[4]", "[0,4]")), 4, "tensor \"a\" is there twice"),
            (r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1}}"#.to_owned(), 0, "unknown field `x`"),
            (format!("{{\"__metadata__\":{}1{}}}", "[".repeat(4000), "]".repeat(4000)), 0, "invalid type: sequence"),
            ("{\"a\":".to_owned(), 0, "header: expected a JSON object of tensors, found tensor \"a\": EOF"),
            ("[]".to_owned(), 0, "header: expected a JSON object of tensors"),
        ] {
            let refusal = refusal(&header, data);
            assert!(refusal.contains(expected), "{header}\n  expected {expected}\n  found {refusal}");
        }
    }

    #[test]
    fn the_header_length_is_bounded_by_the_limit_and_by_the_file() {
        let claim = |length: u64| parse(&[&length.to_le_bytes()[..], b"{}"].concat()).expect_err("absurd").to_string();
        assert_eq!(claim(u64::MAX), "header length in bytes: expected at most 100000000, found 18446744073709551615");
        assert_eq!(claim(3), "header: expected 3 more bytes, found 2 to the end of the file");
        assert!(parse(&[1, 2, 3]).is_err());
    }
}
