//! A cursor over untrusted little-endian bytes that never reads past their end and never allocates what a length field
//! claims before the bytes are there.

use std::fmt::Display;

use crate::model::weights::error::Flaw;

/// Where the parser stands in the file.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, what: &dyn Display) -> Result<&'a [u8], Flaw> {
        if len > self.left() {
            return Err(Flaw::Truncated { what: what.to_string(), needed: len, left: self.left() });
        }
        let taken = &self.bytes[self.at..][..len as usize];
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &dyn Display) -> Result<[u8; N], Flaw> {
        let taken = self.take(N as u64, what)?;
        Ok(taken.try_into().expect("take returns the length it was asked for"))
    }

    pub(super) fn u32(&mut self, what: &dyn Display) -> Result<u32, Flaw> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &dyn Display) -> Result<u64, Flaw> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of items that each take at least `bytes_min`: at most `max`, and no more than the rest could hold.
    pub(super) fn count(&mut self, max: u64, bytes_min: u64, what: &dyn Display) -> Result<usize, Flaw> {
        let found = self.u64(what)?;
        let max = max.min(self.left() / bytes_min);
        if found > max {
            return Err(Flaw::TooMany { what: what.to_string(), max, found });
        }
        Ok(found as usize)
    }

    /// A length-prefixed UTF-8 string of at most `max` bytes.
    pub(super) fn text(&mut self, max: u64, what: &dyn Display) -> Result<&'a str, Flaw> {
        let len = self.u64(what)?;
        if len > max {
            return Err(Flaw::TooMany { what: format!("{what}, length in bytes"), max, found: len });
        }
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|error| Flaw::unexpected(what, "UTF-8", error))
    }
}
