//! Tokens back to text, one at a time. What comes out is whole characters only: bytes that may still become a character
//! wait, at most three of them. Each token costs a copy of its own bytes; nothing is decoded twice. It refuses to know
//! how the vocabulary spells its tokens, which `Pieces` has settled.
//!
//! Invariant: the pieces that came out, joined, are the lossy UTF-8 reading of the joined bytes of the tokens.

use std::sync::Arc;

use crate::text::pieces::Pieces;

/// The state of one answer being decoded.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    /// What each id stands for; shared with the tokenizer.
    pieces: Arc<Pieces>,
    /// Control tokens that are shown, ascending.
    markers: Arc<[u32]>,
    /// Bytes that begin a character and do not end it yet.
    pending: Vec<u8>,
    /// The next text opens the answer, and the vocabulary writes a space there that is not part of it.
    strips_space: bool,
}

impl Detokenizer {
    pub(super) fn new(pieces: Arc<Pieces>, markers: Arc<[u32]>, strips_space: bool) -> Self {
        Self { pieces, markers, pending: Vec::new(), strips_space }
    }

    /// Takes the next token and gives back the characters that are complete now. Control tokens that are no
    /// markers, and ids beyond the vocabulary, add nothing.
    pub fn push(&mut self, id: u32) -> String {
        let mut bytes = shown(&self.pieces, &self.markers, id);
        if self.strips_space && !bytes.is_empty() {
            self.strips_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        if self.pending.is_empty() {
            return complete(bytes, &mut self.pending);
        }
        let mut joined = std::mem::take(&mut self.pending);
        joined.extend_from_slice(bytes);
        complete(&joined, &mut self.pending)
    }

    /// The answer is over: bytes that never became a character are one U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Reads `bytes`, leaving in `pending` an end that more bytes could make a character.
fn complete(bytes: &[u8], pending: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                return text;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).expect("valid up to there"));
                let Some(invalid) = error.error_len() else {
                    pending.extend_from_slice(after);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &after[invalid..];
            }
        }
    }
}

/// The bytes that a token adds to an answer.
fn shown<'a>(pieces: &'a Pieces, markers: &[u32], id: u32) -> &'a [u8] {
    if pieces.is_control(id) && markers.binary_search(&id).is_err() {
        return &[];
    }
    pieces.bytes(id).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::pieces::{Role, Spelling, Token};

    /// All 256 bytes, then some words and a control token.
    fn bytes_and_words() -> Arc<Pieces> {
        let singles: Vec<String> = (0..=u8::MAX).map(|byte| format!("<{byte:#04X}>")).collect();
        let words = ["\u{2581}the", "\u{e9}t\u{e9}", "\u{1f600}", "</s>"];
        let role = |text: &str| if text == "</s>" { Role::Control } else { Role::Word };
        let texts = singles.iter().map(String::as_str).chain(words);
        let tokens = texts.zip(0..).map(|(text, id)| Token { id, text, role: role(text) }).collect();
        Arc::new(Pieces::new(Spelling::Marked, tokens).expect("a small table"))
    }

    fn decode(ids: impl IntoIterator<Item = u32>, strips_space: bool) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(bytes_and_words(), Arc::new([]), strips_space);
        let mut texts: Vec<String> = ids.into_iter().map(|id| detokenizer.push(id)).collect();
        texts.push(detokenizer.finish());
        texts
    }

    #[test]
    fn a_character_comes_out_with_its_last_byte() {
        let emoji = "\u{1f600}".bytes().map(u32::from);
        assert_eq!(decode(emoji, false), ["", "", "", "\u{1f600}", ""]);
    }

    #[test]
    fn a_character_that_never_ends_is_one_replacement() {
        assert_eq!(decode([0xf0, 0x9f, 0x98], false), ["", "", "", "\u{fffd}"]);
        assert_eq!(decode([0xf0, 0x9f, u32::from(b'a')], false), ["", "", "\u{fffd}a", ""]);
    }

    #[test]
    fn the_space_before_the_first_word_is_dropped_only_where_the_vocabulary_adds_it() {
        assert_eq!(decode([256, 256], true).concat(), "the the");
        assert_eq!(decode([256, 256], false).concat(), " the the");
    }

    #[test]
    fn control_tokens_and_unknown_ids_add_nothing() {
        assert_eq!(decode([259, 256, 9999], true).concat(), "the");
    }

    #[test]
    fn a_marker_is_shown_though_it_is_a_control_token() {
        let mut detokenizer = Detokenizer::new(bytes_and_words(), Arc::new([259]), false);
        assert_eq!([259, 256].map(|id| detokenizer.push(id)), ["</s>", " the"]);
    }

    proptest! {
        #[test]
        fn pushing_one_by_one_equals_decoding_the_whole(ids in prop::collection::vec(0..262u32, 0..64)) {
            let pieces = bytes_and_words();
            let shown = ids.iter().filter(|&&id| !pieces.is_control(id));
            let whole: Vec<u8> = shown.flat_map(|&id| pieces.bytes(id).unwrap_or_default()).copied().collect();
            prop_assert_eq!(decode(ids, false).concat(), String::from_utf8_lossy(&whole).into_owned());
        }
    }
}
