//! The bytes that each token id stands for, in one flat table. Decoding is a lookup here, so a detokenizer costs a copy
//! a token and a grammar can walk the vocabulary. It refuses to know text: a token may be half a character.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Most token ids a vocabulary may have; the largest in use have 262,144.
pub(super) const TOKENS_MAX: usize = 1 << 20;

/// The mark that sentencepiece writes for a space.
pub(super) const SPACE_MARK: char = '\u{2581}';

/// How a vocabulary spells bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's: each byte is one printable character.
    ByteLevel,
    /// Sentencepiece's: text with [`SPACE_MARK`] for spaces, and `<0xAB>` for single bytes.
    Marked,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Spelled as the vocabulary spells.
    Word,
    /// Added beside the vocabulary, written as it reads.
    Added,
    /// Steers the model; no part of an answer's text.
    Control,
}

/// One token to put into the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    /// Its id.
    pub id: u32,
    /// How the vocabulary writes it.
    pub text: &'a str,
    /// What it is for.
    pub role: Role,
}

/// The table: the bytes of token `i` are `bytes[ends[i - 1]..ends[i]]`.
#[derive(Debug)]
pub(super) struct Pieces {
    /// The bytes of all tokens, in the order of their ids.
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<u32>,
    /// Which tokens steer the model and are no part of an answer.
    control: Vec<bool>,
}

impl Pieces {
    /// Lays out `tokens`; ids that are missing between them stand for nothing, and of two with one id the later counts.
    /// `None` when an id is beyond [`TOKENS_MAX`] or the bytes do not fit an offset.
    pub fn new(spelling: Spelling, mut tokens: Vec<Token<'_>>) -> Option<Self> {
        tokens.sort_by_key(|token| token.id);
        tokens.dedup_by(|later, kept| {
            let same = later.id == kept.id;
            if same {
                *kept = *later;
            }
            same
        });
        let count = tokens.last().map_or(0, |token| token.id as usize + 1);
        if count > TOKENS_MAX {
            return None;
        }
        let mut pieces = Self { bytes: Vec::new(), ends: Vec::with_capacity(count), control: vec![false; count] };
        for token in tokens {
            let id = token.id as usize;
            pieces.ends.resize(id, u32::try_from(pieces.bytes.len()).ok()?);
            pieces.control[id] = token.role == Role::Control;
            spell(&mut pieces.bytes, spelling, token);
            pieces.ends.push(u32::try_from(pieces.bytes.len()).ok()?);
        }
        Some(pieces)
    }

    /// How many ids there are; the highest is one less.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token, a control token's own text included; `None` beyond the vocabulary.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// The most bytes that one token stands for; at least 1.
    pub fn bytes_max(&self) -> usize {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        self.ends.iter().zip(starts).map(|(end, start)| (end - start) as usize).max().unwrap_or(0).max(1)
    }

    /// Whether a token steers the model and is no part of an answer.
    pub fn is_control(&self, id: u32) -> bool {
        self.control.get(id as usize).copied().unwrap_or(false)
    }
}

fn spell(bytes: &mut Vec<u8>, spelling: Spelling, token: Token<'_>) {
    let Token { text, role, .. } = token;
    match (spelling, role) {
        (Spelling::ByteLevel, Role::Added) | (_, Role::Control) => bytes.extend_from_slice(text.as_bytes()),
        (Spelling::ByteLevel, Role::Word) => {
            let start = bytes.len();
            for character in text.chars() {
                let Some(byte) = byte_of(character) else {
                    // Not written in the byte alphabet at all, so it reads as it stands.
                    bytes.truncate(start);
                    return bytes.extend_from_slice(text.as_bytes());
                };
                bytes.push(byte);
            }
        }
        (Spelling::Marked, Role::Word | Role::Added) => match single_byte(text) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(text.replace(SPACE_MARK, " ").as_bytes()),
        },
    }
}

/// The byte that sentencepiece's `<0xAB>` names.
fn single_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte that a character of GPT-2's alphabet stands for. Printable bytes are themselves, the others count from
/// U+0100 in their order.
fn byte_of(character: char) -> Option<u8> {
    static ALPHABET: LazyLock<HashMap<char, u8>> = LazyLock::new(|| alphabet().into_iter().zip(0..=u8::MAX).collect());
    ALPHABET.get(&character).copied()
}

/// The character of GPT-2's alphabet for each byte.
pub(super) fn alphabet() -> [char; 256] {
    let mut shifted = '\u{100}'..;
    let mut alphabet = ['\0'; 256];
    for byte in 0..=u8::MAX {
        let own = is_printable(byte).then_some(char::from(byte));
        alphabet[usize::from(byte)] = own.or_else(|| shifted.next()).expect("there are more characters than bytes");
    }
    alphabet
}

const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = ('\u{21}'..='\u{143}').filter_map(byte_of).collect();
        assert_eq!(bytes.len(), 256);
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), 256);
        assert_eq!(['\u{120}', '\u{10a}', ' ', '\u{144}'].map(byte_of), [Some(b' '), Some(b'\n'), None, None]);
    }

    #[test]
    fn a_table_keeps_its_gaps_and_its_last_writer() {
        let token = |id, text, role| Token { id, text, role };
        let tokens = vec![
            token(4, "<0xE2>", Role::Word),
            token(1, "\u{2581}a", Role::Word),
            token(1, "b", Role::Word),
            token(6, "<s>", Role::Control),
        ];
        let pieces = Pieces::new(Spelling::Marked, tokens).expect("a small table");
        assert_eq!(pieces.len(), 7);
        assert_eq!((pieces.bytes(0), pieces.bytes(4), pieces.bytes(7)), (Some(&b""[..]), Some(&b"\xe2"[..]), None));
        assert_eq!((pieces.bytes(1), pieces.bytes(2)), (Some(&b"b"[..]), Some(&b""[..])));
        assert_eq!((pieces.bytes(6), pieces.bytes(9)), (Some(&b"<s>"[..]), None));
    }

    #[test]
    fn an_id_beyond_the_limit_is_refused() {
        let token = Token { id: TOKENS_MAX as u32, text: "a", role: Role::Word };
        assert!(Pieces::new(Spelling::Marked, vec![token]).is_none());
    }
}
