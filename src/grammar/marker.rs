//! The text that ends a model's thinking (`</think>`), found in the bytes of its tokens wherever they are cut. Made once a
//! model and marker, because it looks at every token. It refuses to know what comes before and after.
//!
//! Invariant: while an answer is due behind it, a token may hold the end of the marker and white space, but no byte of
//! the answer: an answer begins with a token of its own, which its grammar has judged.

use std::fmt;
use std::sync::Arc;

use crate::grammar::vocabulary::Vocabulary;
use crate::job::{Mask, allows};

/// Longest marker; the ones in use have 8 to 20 bytes.
const MARKER_BYTES_MAX: usize = 64;

/// Most white space between the marker and the answer.
pub(crate) const GAP_BYTES_MAX: usize = 8;

/// What a token did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// This many bytes of the marker are at the end of the text.
    Begun(usize),
    /// The marker is complete; the token went on for this many bytes.
    Complete(usize),
}

/// A marker, looked up in a vocabulary.
pub struct Marker {
    vocabulary: Arc<Vocabulary>,
    /// For each count of marker bytes at the end of the text, and the next byte, the new count.
    next: Vec<[u8; 256]>,
    /// For each such count, the tokens that an answer may come behind.
    thinking: Vec<Mask>,
    /// For each count of bytes that are left of the gap, the tokens of white space that fit.
    gap: Vec<Mask>,
}

impl Marker {
    /// Looks up a marker, which has 1 to 64 bytes. Reads every token once for each of them.
    #[must_use]
    pub fn new(vocabulary: &Arc<Vocabulary>, text: &str) -> Self {
        let length = text.len();
        assert!((1..=MARKER_BYTES_MAX).contains(&length), "a marker has 1 to {MARKER_BYTES_MAX} bytes, not {length}");
        let mut marker = Self {
            vocabulary: Arc::clone(vocabulary),
            next: transitions(text.as_bytes()),
            thinking: Vec::new(),
            gap: Vec::new(),
        };
        // An end of the answer would leave none.
        let words = || (0..vocabulary.width()).filter(|&token| !allows(vocabulary.ends(), token));
        marker.gap = (0..=GAP_BYTES_MAX)
            .map(|left| vocabulary.mask_of(words().filter(|&token| is_gap(vocabulary.bytes(token), left))))
            .collect();
        marker.thinking = (0..length)
            .map(|begun| vocabulary.mask_of(words().filter(|&token| marker.may_think(begun, token))))
            .collect();
        marker
    }

    /// Whether an answer may come behind this token of thinking.
    fn may_think(&self, begun: usize, token: u32) -> bool {
        let bytes = self.vocabulary.bytes(token);
        if bytes.is_empty() {
            return false;
        }
        match self.step(begun, token) {
            Seen::Begun(_) => true,
            Seen::Complete(further) => further == 0 || is_gap(&bytes[bytes.len() - further..], GAP_BYTES_MAX),
        }
    }

    /// Takes a token behind `begun` bytes of the marker.
    pub(crate) fn step(&self, begun: usize, token: u32) -> Seen {
        let bytes = self.vocabulary.bytes(token);
        let mut begun = begun;
        for (index, &byte) in bytes.iter().enumerate() {
            begun = usize::from(self.next[begun][usize::from(byte)]);
            if begun == self.next.len() {
                return Seen::Complete(bytes.len() - index - 1);
            }
        }
        Seen::Begun(begun)
    }

    /// The tokens that an answer may come behind, after `begun` bytes of the marker.
    pub(crate) fn thinking(&self, begun: usize) -> &Mask {
        &self.thinking[begun]
    }

    /// The tokens of white space that fit into what is left of the gap.
    pub(crate) fn gap(&self, left: usize) -> &Mask {
        &self.gap[left]
    }

    /// How many bytes a token has.
    pub(crate) fn len_of(&self, token: u32) -> usize {
        self.vocabulary.bytes(token).len()
    }
}

impl fmt::Debug for Marker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Marker").field("bytes", &self.next.len()).finish_non_exhaustive()
    }
}

/// Whether these bytes are white space that fits.
fn is_gap(bytes: &[u8], left: usize) -> bool {
    (1..=left).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_whitespace)
}

/// The automaton of Knuth, Morris and Pratt, written out.
fn transitions(pattern: &[u8]) -> Vec<[u8; 256]> {
    let mut next = vec![[0_u8; 256]; pattern.len()];
    // The state in which the text without its first byte would be.
    let mut shorter = 0;
    for (state, &byte) in pattern.iter().enumerate() {
        if state > 0 {
            next[state] = next[shorter];
            shorter = usize::from(next[shorter][usize::from(byte)]);
        }
        next[state][usize::from(byte)] = state as u8 + 1;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 9] = ["<end>", "<", "/t>", "</t>", "</t>\n", "</t>{", "x</t", ">", ">x"];

    fn marker() -> Marker {
        let bytes_of = |id: u32| TOKENS.get(id as usize).map(|text| text.as_bytes().to_vec());
        let vocabulary = Vocabulary::new(16, bytes_of, |id| id == 0, &[0]).expect("a valid vocabulary");
        Marker::new(&Arc::new(vocabulary), "</t>")
    }

    fn allowed(mask: &Mask) -> Vec<&'static str> {
        (0..16).filter(|&token| allows(mask, token)).map(|token| TOKENS[token as usize]).collect()
    }

    #[test]
    fn the_marker_is_found_across_tokens() {
        let marker = marker();
        assert_eq!(marker.step(0, 1), Seen::Begun(1));
        assert_eq!(marker.step(1, 2), Seen::Complete(0));
        assert_eq!(marker.step(0, 6), Seen::Begun(3));
        assert_eq!(marker.step(3, 8), Seen::Complete(1));
        assert_eq!(marker.step(3, 6), Seen::Begun(3), "a broken beginning may hold a new one");
        assert_eq!(marker.step(0, 4), Seen::Complete(1));
    }

    #[test]
    fn no_token_holds_the_marker_and_a_part_of_the_answer() {
        let marker = marker();
        assert_eq!(allowed(marker.thinking(0)), ["<", "/t>", "</t>", "</t>\n", "x</t", ">", ">x"]);
        assert_eq!(allowed(marker.thinking(3)), ["<", "/t>", "</t>", "</t>\n", "x</t", ">"]);
    }

    #[test]
    fn the_written_out_automaton_agrees_with_searching() {
        for pattern in ["a", "aab", "aba", "abab", "aaaa"] {
            let next = transitions(pattern.as_bytes());
            for text in ["aabaabab", "bbababaaaab", "abaabababaaab"] {
                let mut state = 0;
                let found = text.bytes().position(|byte| {
                    state = usize::from(next[state][usize::from(byte)]);
                    state == pattern.len()
                });
                assert_eq!(
                    found.map(|end| end + 1),
                    text.find(pattern).map(|at| at + pattern.len()),
                    "{pattern} {text}"
                );
            }
        }
    }
}
