//! The key-value part of a GGUF file. Lists stay in the file: only their place is kept, so that a vocabulary costs
//! nothing until it is asked for. Every value is checked here, so reading one later cannot fail.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Display;
use std::ops::Range;

use crate::model::weights::error::Flaw;
use crate::model::weights::gguf::reader::Reader;

/// Most keys in one file; real ones have fewer than a hundred.
pub const KEYS_MAX: u64 = 10_000;
/// Longest key, as the format says.
pub const KEY_BYTES_MAX: u64 = 65_535;
/// Longest single string; chat templates are the longest, at some 30 KB.
pub const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Longest list; the largest vocabularies have some 300,000 entries.
pub const LIST_ITEMS_MAX: u64 = 4 << 20;
/// Key length, one character of key, type and one byte of value.
const KEY_BYTES_MIN: u64 = 8 + 1 + 4 + 1;

const TYPE_TEXT: u32 = 8;
const TYPE_LIST: u32 = 9;

/// The scalar types, which are also what lists of fixed-width items hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Unsigned, one byte.
    U8,
    /// Signed, one byte.
    I8,
    /// Unsigned, two bytes.
    U16,
    /// Signed, two bytes.
    I16,
    /// Unsigned, four bytes.
    U32,
    /// Signed, four bytes.
    I32,
    /// Floating point, four bytes.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, eight bytes.
    U64,
    /// Signed, eight bytes.
    I64,
    /// Floating point, eight bytes.
    F64,
}

impl Scalar {
    fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Reads one value; `bytes` has this type's width.
    fn read(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let raw = u64::from_le_bytes(wide);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Unsigned(raw),
            Self::I8 => Value::Signed(i64::from(raw as u8 as i8)),
            Self::I16 => Value::Signed(i64::from(raw as u16 as i16)),
            Self::I32 => Value::Signed(i64::from(raw as u32 as i32)),
            Self::I64 => Value::Signed(raw as i64),
            Self::F32 => Value::F32(f32::from_bits(raw as u32)),
            Self::F64 => Value::F64(f64::from_bits(raw)),
            Self::Bool => Value::Bool(raw != 0),
        }
    }
}

/// One value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A float of four bytes.
    F32(f32),
    /// A float of eight bytes.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// Numbers or truth values.
    Scalars(Scalars),
    /// Strings.
    Texts(Texts),
}

impl Value {
    fn integer(&self) -> Option<i128> {
        match self {
            Self::Unsigned(number) => Some(i128::from(*number)),
            Self::Signed(number) => Some(i128::from(*number)),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::Text(_) | Self::Scalars(_) | Self::Texts(_) => None,
        }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Self::F32(number) => number.to_string().parse().ok(),
            Self::F64(number) => Some(*number),
            Self::Unsigned(_) | Self::Signed(_) | Self::Bool(_) => None,
            Self::Text(_) | Self::Scalars(_) | Self::Texts(_) => None,
        }
    }

    /// For errors: numbers in full, the rest by its type.
    fn description(&self) -> String {
        match self {
            Self::Unsigned(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::F32(number) => format!("the float {number:?}"),
            Self::F64(number) => format!("the float {number:?}"),
            Self::Bool(_) => "a boolean".to_owned(),
            Self::Text(_) => "a string".to_owned(),
            Self::Scalars(list) => format!("a list of {:?}", list.item),
            Self::Texts(_) => "a list of strings".to_owned(),
        }
    }
}

/// A list of numbers, in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalars {
    item: Scalar,
    range: Range<usize>,
}

/// A list of strings, in the file; each is length-prefixed UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    len: usize,
    range: Range<usize>,
}

/// All keys of a file, with the accessors that say what was expected.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Reads `count` pairs, where `count` was already checked against the rest of the file.
    pub(super) fn read(reader: &mut Reader<'_>, count: usize) -> Result<Self, Flaw> {
        let mut values = BTreeMap::new();
        for index in 0..count {
            let key = reader.text(KEY_BYTES_MAX, &format_args!("key {index} of {count}"))?;
            let what = format!("key {key:?}");
            if key.is_empty() {
                return Err(Flaw::unexpected(format_args!("key {index} of {count}"), "a name", "an empty string"));
            }
            let value = read_value(reader, &what)?;
            match values.entry(key.to_owned()) {
                Entry::Vacant(vacant) => vacant.insert(value),
                Entry::Occupied(_) => return Err(Flaw::Duplicate { what }),
            };
        }
        Ok(Self(values))
    }

    /// The number of pairs, within the limits of the format.
    pub(super) fn read_count(reader: &mut Reader<'_>) -> Result<usize, Flaw> {
        reader.count(KEYS_MAX, KEY_BYTES_MIN, &"number of keys")
    }

    /// The value under `key`, if there is one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// A string, if the key is there.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Flaw> {
        self.typed(key, "a string", |value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
    }

    /// A truth value, if the key is there.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Flaw> {
        self.typed(key, "a boolean", |value| if let Value::Bool(truth) = value { Some(*truth) } else { None })
    }

    /// An integer below 2³², if the key is there.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Flaw> {
        self.typed(key, "an integer from 0 to 4294967295", |value| u32::try_from(value.integer()?).ok())
    }

    /// A finite float, if the key is there: the shortest decimal that names it, which is what people wrote.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn float(&self, key: &str) -> Result<Option<f64>, Flaw> {
        self.typed(key, "a finite float", |value| value.float().filter(|number| number.is_finite()))
    }

    /// A list of strings, if the key is there.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn texts<'f>(&self, key: &str, file: &'f [u8]) -> Result<Option<Vec<&'f str>>, Flaw> {
        let list = self
            .typed(key, "a list of strings", |value| if let Value::Texts(list) = value { Some(list) } else { None })?;
        Ok(list.map(|list| list.read(file)))
    }

    /// A list of integers that fit 32 signed bits, if the key is there.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn i32s(&self, key: &str, file: &[u8]) -> Result<Option<Vec<i32>>, Flaw> {
        self.scalars(key, file, "a list of 32-bit integers", |value| i32::try_from(value.integer()?).ok())
    }

    /// A list of floats, if the key is there.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn f32s(&self, key: &str, file: &[u8]) -> Result<Option<Vec<f32>>, Flaw> {
        self.scalars(key, file, "a list of 32-bit floats", |value| {
            if let Value::F32(number) = value { Some(number) } else { None }
        })
    }

    fn scalars<T>(
        &self,
        key: &str,
        file: &[u8],
        expected: &str,
        convert: impl Fn(Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Flaw> {
        let list =
            self.typed(key, expected, |value| if let Value::Scalars(list) = value { Some(list) } else { None })?;
        let Some(list) = list else { return Ok(None) };
        let items: Option<Vec<T>> = list.read(file).map(convert).collect();
        items
            .map(Some)
            .ok_or_else(|| Flaw::unexpected(format_args!("key {key:?}"), expected, format_args!("{:?}", list.item)))
    }

    /// The one place where a present value of the wrong type becomes an error.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: impl Display,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Flaw> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let flaw = || Flaw::unexpected(format_args!("key {key:?}"), expected, value.description());
        convert(value).map(Some).ok_or_else(flaw)
    }
}

impl Scalars {
    fn read<'f>(&self, file: &'f [u8]) -> impl Iterator<Item = Value> + use<'f> {
        let item = self.item;
        file[self.range.clone()].chunks_exact(item.width()).map(move |bytes| item.read(bytes))
    }
}

impl Texts {
    fn read<'f>(&self, file: &'f [u8]) -> Vec<&'f str> {
        let mut reader = Reader::new(&file[self.range.clone()]);
        let item = |_| reader.text(TEXT_BYTES_MAX, &"list item").expect("the same bytes were checked at parse");
        (0..self.len).map(item).collect()
    }
}

fn read_value(reader: &mut Reader<'_>, what: &str) -> Result<Value, Flaw> {
    let code = reader.u32(&format_args!("{what}, type"))?;
    match code {
        TYPE_TEXT => Ok(Value::Text(reader.text(TEXT_BYTES_MAX, &what)?.to_owned())),
        TYPE_LIST => read_list(reader, what),
        _ => {
            let scalar = scalar_of(code, what, "a value type from 0 to 12")?;
            read_scalar(reader, scalar, what)
        }
    }
}

fn scalar_of(code: u32, what: &str, expected: &str) -> Result<Scalar, Flaw> {
    Scalar::from_code(code).ok_or_else(|| Flaw::unexpected(format_args!("{what}, type"), expected, code))
}

fn read_scalar(reader: &mut Reader<'_>, scalar: Scalar, what: &str) -> Result<Value, Flaw> {
    let bytes = reader.take(scalar.width() as u64, &what)?;
    if scalar == Scalar::Bool && bytes[0] > 1 {
        return Err(Flaw::unexpected(what, "a boolean of 0 or 1", bytes[0]));
    }
    Ok(scalar.read(bytes))
}

fn read_list(reader: &mut Reader<'_>, what: &str) -> Result<Value, Flaw> {
    let code = reader.u32(&format_args!("{what}, item type"))?;
    let length = format!("{what}, number of items");
    if code == TYPE_LIST {
        return Err(Flaw::unsupported(what, "a list of lists", "a list of scalars or strings"));
    }
    if code == TYPE_TEXT {
        let len = reader.count(LIST_ITEMS_MAX, size_of::<u64>() as u64, &length)?;
        let start = reader.position();
        for index in 0..len {
            reader.text(TEXT_BYTES_MAX, &format_args!("{what}, item {index}"))?;
        }
        return Ok(Value::Texts(Texts { len, range: start..reader.position() }));
    }
    let item = scalar_of(code, what, "an item type from 0 to 12")?;
    let len = reader.count(LIST_ITEMS_MAX, item.width() as u64, &length)?;
    let start = reader.position();
    let bytes = reader.take((len * item.width()) as u64, &what)?;
    if item == Scalar::Bool && bytes.iter().any(|byte| *byte > 1) {
        return Err(Flaw::unexpected(what, "booleans of 0 or 1", "other bytes"));
    }
    Ok(Value::Scalars(Scalars { item, range: start..reader.position() }))
}
