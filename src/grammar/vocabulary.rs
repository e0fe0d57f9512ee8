//! A model's tokens as llguidance reads them: a trie of their bytes, made once a model and shared by every grammar. It
//! decides which ids a grammar may ever allow, and refuses to know where the bytes come from.
//!
//! Invariant: no mask allows an id that is neither an ordinary token nor an end of the answer, whatever a grammar says.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::{Logger, ParserFactory, TokenParser};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};

use crate::job::Mask;

/// Widest logits that are read. The trie has room for four million nodes.
const WIDTH_MAX: u32 = 1 << 20;

/// Longest token that a grammar may use; the trie has no room for much longer ones, and none is needed to write a text.
const TOKEN_BYTES_MAX: usize = 1_000;

/// Why a model's tokens cannot be used with grammars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// An answer could never end.
    #[error("none of the model's end tokens is below the logit width of {width}")]
    Endless {
        /// The logit width.
        width: u32,
    },
    /// More ids than `WIDTH_MAX`.
    #[error("the logit width is {width}; the limit is {WIDTH_MAX}")]
    TooWide {
        /// The logit width.
        width: u32,
    },
    /// llguidance refused them.
    #[error("the vocabulary cannot be indexed: {0}")]
    Unusable(String),
}

/// The tokens of one model, indexed. Shared by all requests; costs half a second and 60 MB for 150,000 tokens.
pub struct Vocabulary {
    /// Makes parsers that know the trie.
    factory: ParserFactory,
    /// The trie itself.
    environment: TokEnv,
    /// Bytes of the tokens that are not in the trie: control tokens, ends, and what no text contains.
    apart: HashMap<u32, Vec<u8>>,
    /// What a grammar may allow at all: ordinary tokens and ends.
    usable: Vec<u32>,
    /// The tokens that end an answer.
    ends: Mask,
    /// How many logits the model has; ids are below it.
    width: u32,
}

impl Vocabulary {
    /// Indexes the ids below `width`. `bytes_of` tells what a token stands for, a control token's own text included, and
    /// `None` where the vocabulary has no token; `is_control` tells which steer the model; any of `end_ids` may end an
    /// answer.
    ///
    /// # Errors
    /// When the width is too large, or no end token is within it.
    pub fn new(
        width: u32,
        bytes_of: impl Fn(u32) -> Option<Vec<u8>>,
        is_control: impl Fn(u32) -> bool,
        end_ids: &[u32],
    ) -> Result<Self, VocabularyError> {
        if width > WIDTH_MAX {
            return Err(VocabularyError::TooWide { width });
        }
        let end_ids: Vec<u32> = end_ids.iter().copied().filter(|&id| id < width).collect();
        let Some(&first_end) = end_ids.first() else { return Err(VocabularyError::Endless { width }) };

        let ends = mask_of(width, end_ids.iter().copied());
        let mut usable = ends.to_vec();
        let mut words = Vec::with_capacity(width as usize);
        let mut apart = HashMap::new();
        for id in 0..width {
            let bytes = bytes_of(id).unwrap_or_default();
            if is_control(id) || end_ids.contains(&id) || !is_text(&bytes) {
                words.push(Vec::new());
                if !bytes.is_empty() {
                    apart.insert(id, bytes);
                }
            } else {
                usable[id as usize / 32] |= 1 << (id % 32);
                words.push(bytes);
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(width, first_end), &words).with_eos_tokens(&end_ids);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| VocabularyError::Unusable(error.to_string()))?;
        Ok(Self { factory, environment, apart, usable, ends, width })
    }

    /// How many logits the model has.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The bytes of a token; empty where there is none.
    #[must_use]
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.apart.get(&token).map_or_else(|| self.environment.tok_trie().token(token), Vec::as_slice)
    }

    /// The tokens that end an answer, and no others.
    #[must_use]
    pub fn ends(&self) -> &Mask {
        &self.ends
    }

    /// A mask of some ids, which are below the width.
    #[must_use]
    pub fn mask_of(&self, ids: impl Iterator<Item = u32>) -> Mask {
        mask_of(self.width, ids)
    }

    /// What `found` allows, but for what no grammar may allow; `None` when nothing is left.
    pub(crate) fn mask(&self, found: &SimpleVob) -> Option<Mask> {
        let mask: Mask = self.usable.iter().zip(found.as_slice()).map(|(usable, found)| usable & found).collect();
        assert_eq!(mask.len(), self.usable.len(), "llguidance's masks are as wide as the vocabulary it was given");
        mask.iter().any(|&word| word != 0).then_some(mask)
    }

    /// A parser of a grammar, or what llguidance said. Panics in it are told as `panic:`.
    pub(crate) fn parser(&self, grammar: TopLevelGrammar, limits: ParserLimits) -> Result<TokenParser, String> {
        let init = GrammarInit::Serialized(grammar);
        let silent = Logger::new(0, 0);
        let parser = self.factory.create_parser_from_init_ext(init, silent, InferenceCapabilities::default(), limits);
        // The alternate form writes causes that the plain one leaves out.
        parser.map_err(|error| format!("{error:#}"))
    }
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Vocabulary").field("width", &self.width).finish_non_exhaustive()
    }
}

fn mask_of(width: u32, ids: impl Iterator<Item = u32>) -> Mask {
    let mut words = vec![0; width.div_ceil(32) as usize];
    for id in ids {
        assert!(id < width, "token {id} is not below the logit width of {width}");
        words[id as usize / 32] |= 1_u32 << (id % 32);
    }
    words.into()
}

/// Whether a text can contain these bytes. llguidance marks special tokens by a byte that UTF-8 does not have.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.len() <= TOKEN_BYTES_MAX && !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ends: &[u32]) -> Result<Vocabulary, VocabularyError> {
        let tokens: [&[u8]; 6] = [b"<end>", b"a", b"", b"\xff", b"<stop>", b"a"];
        let bytes_of = |id: u32| tokens.get(id as usize).map(|bytes| bytes.to_vec());
        Vocabulary::new(40, bytes_of, |id| id == 0 || id == 4, ends)
    }

    #[test]
    fn every_end_below_the_width_counts() {
        let vocabulary = of(&[0, 4, 99]).expect("two ends are left");
        assert_eq!(vocabulary.ends().as_ref(), [0b1_0001, 0]);
    }

    #[test]
    fn a_vocabulary_without_an_end_is_refused() {
        assert_eq!(of(&[40]).err(), Some(VocabularyError::Endless { width: 40 }));
        let wide = Vocabulary::new(WIDTH_MAX + 1, |_| None, |_| false, &[0]);
        assert_eq!(wide.err(), Some(VocabularyError::TooWide { width: WIDTH_MAX + 1 }));
    }

    #[test]
    fn only_ordinary_tokens_and_ends_are_ever_allowed() {
        let vocabulary = of(&[0]).expect("a valid vocabulary");
        let mask = vocabulary.mask(&SimpleVob::alloc_ones(40)).expect("something is allowed");
        assert_eq!(mask.as_ref(), [0b10_0011, 0], "tokens 1 and 5 and the end, not the other control token");
        assert_eq!(vocabulary.mask(&SimpleVob::alloc(40)), None);
    }

    #[test]
    fn the_bytes_of_control_tokens_are_known() {
        let vocabulary = of(&[0]).expect("a valid vocabulary");
        assert_eq!((vocabulary.bytes(4), vocabulary.bytes(5)), (&b"<stop>"[..], &b"a"[..]));
        assert_eq!((vocabulary.bytes(2), vocabulary.bytes(39)), (&b""[..], &b""[..]));
    }
}
