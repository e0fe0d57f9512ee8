//! Text to token ids, by the Hugging Face `tokenizers` crate, from a `tokenizer.json` or from the vocabulary inside a
//! GGUF file. It owns the table of what each id stands for and makes detokenizers from it. It refuses to know chats:
//! a rendered template is text in which control tokens are matched.
//!
//! Invariants: no truncation and no padding, whatever the file asks for; encoding is a function of the text alone.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use tokenizers::{DecoderWrapper, ModelWrapper};

use crate::text::TextError;
use crate::text::detokenizer::Detokenizer;
use crate::text::pieces::{Pieces, Role, SPACE_MARK, Spelling, TOKENS_MAX, Token};
use crate::text::vocabulary::{GgufVocabulary, VocabularyError};
use crate::text::words::{Budget, Words};

/// Largest `tokenizer.json` that is read; the largest in use has 33 MB.
pub const JSON_BYTES_MAX: u64 = 64 << 20;

/// How many times shorter a normaliser may make a text, at most.
const NORMALISED_SHRINK_MAX: usize = 4;

/// Whether the beginning-of-text token is put in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Put it in front where the vocabulary asks for one, unless the text brings it.
    Added,
    /// Encode what is written and nothing else.
    AsWritten,
}

/// Why a tokenizer cannot be made from what the model brings.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is beyond [`JSON_BYTES_MAX`].
    #[error("tokenizer.json is {bytes} bytes or more; the limit is {JSON_BYTES_MAX}")]
    TooLarge {
        /// Its size, as far as it was read.
        bytes: u64,
    },
    /// It is no tokenizer that the `tokenizers` crate understands.
    #[error("tokenizer.json is not valid: {0}")]
    Invalid(String),
    /// It decodes in a way that cannot be done token by token here.
    #[error("tokenizer.json has the decoder {0}; supported are ByteLevel, Metaspace and Replace with ByteFallback")]
    Decoder(String),
    /// More ids than `TOKENS_MAX`.
    #[error("the vocabulary has ids beyond the limit of {TOKENS_MAX} tokens")]
    TooManyTokens,
    /// The vocabulary inside a GGUF file does not hold together.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
}

/// Encodes text and knows the bytes of each token. `Send + Sync`: one serves all requests, on the blocking pool.
pub struct Tokenizer {
    /// The pipeline: control tokens, normaliser, pre-tokeniser, merges.
    pipeline: tokenizers::Tokenizer,
    /// The same pipeline word by word, where it is one of those in use.
    words: Option<Words>,
    /// The most bytes that one token stands for.
    token_bytes_max: usize,
    /// What each id stands for.
    pieces: Arc<Pieces>,
    /// Put in front of a text that does not begin with it, when the vocabulary asks for one.
    beginning: Option<u32>,
    /// An answer's first space belongs to the spelling and not to the text.
    strips_space: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When the file is unreadable, too large, or not a tokenizer that is supported.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let unreadable = |source| TokenizerError::Unreadable { path: path.display().to_string(), source };
        let mut json = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(JSON_BYTES_MAX + 1).read_to_end(&mut json).map_err(unreadable)?;
        Self::from_json(&json)
    }

    /// Makes a tokenizer from the content of a `tokenizer.json`.
    ///
    /// # Errors
    /// When the content is too large or not a tokenizer that is supported.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let bytes = json.len() as u64;
        if bytes > JSON_BYTES_MAX {
            return Err(TokenizerError::TooLarge { bytes });
        }
        // The crate indexes out of bounds on some damaged merges; a broken model file is a refusal and not a crash.
        let mut pipeline = catch_unwind(|| tokenizers::Tokenizer::from_bytes(json))
            .map_err(|_| TokenizerError::Invalid("its merges do not fit its vocabulary".to_owned()))?
            .map_err(|error| TokenizerError::Invalid(error.to_string()))?;
        pipeline.with_padding(None);
        pipeline.with_truncation(None).map_err(|error| TokenizerError::Invalid(error.to_string()))?;

        let Some(decoder) = pipeline.get_decoder() else { return Err(TokenizerError::Decoder("none".to_owned())) };
        let (spelling, strips_space) = reading(decoder)?;
        let vocabulary = pipeline.get_vocab(true);
        let added = pipeline.get_added_tokens_decoder();
        let tokens = vocabulary.iter().map(|(text, &id)| {
            let role = match added.get(&id) {
                Some(token) if token.special => Role::Control,
                Some(_) => Role::Added,
                None => Role::Word,
            };
            Token { id, text, role }
        });
        let pieces = Pieces::new(spelling, tokens.collect()).ok_or(TokenizerError::TooManyTokens)?;
        let beginning = beginning_of(&pipeline);
        Ok(Self::assembled(pipeline, pieces, beginning, strips_space))
    }

    /// Makes a tokenizer from the vocabulary inside a GGUF file.
    ///
    /// # Errors
    /// When the vocabulary's model or pre-tokeniser is not supported, or its parts do not fit each other.
    pub fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self, TokenizerError> {
        let beginning = vocabulary.bos.filter(|_| vocabulary.adds_bos());
        let strips_space = vocabulary.adds_space();
        let pieces = Pieces::new(vocabulary.spelling()?, vocabulary.roles()).ok_or(TokenizerError::TooManyTokens)?;
        let pipeline = vocabulary.into_pipeline()?;
        Ok(Self::assembled(pipeline, pieces, beginning, strips_space))
    }

    fn assembled(pipeline: tokenizers::Tokenizer, pieces: Pieces, beginning: Option<u32>, strips_space: bool) -> Self {
        let words = Words::of(&pipeline);
        let token_bytes_max = pieces.bytes_max();
        Self { pipeline, words, token_bytes_max, pieces: Arc::new(pieces), beginning, strips_space }
    }

    /// Encodes a text. Control tokens that are written in it are matched as the tokens they name.
    ///
    /// # Errors
    /// When the text comes to more than `tokens_max` tokens, which is noticed early where it can be, or when the
    /// pipeline fails on this text; other texts are not touched.
    pub fn encode(&self, text: &str, beginning: Beginning, tokens_max: u32) -> Result<Vec<u32>, TextError> {
        let budget = Budget { tokens_max, token_bytes_max: self.token_bytes_max };
        // The regular expressions behind the pipeline report their own limits by a panic; it belongs to this text only.
        let mut ids = catch_unwind(AssertUnwindSafe(|| self.run(text, budget)))
            .map_err(|_| TextError::Encode("the pre-tokeniser gave up".to_owned()))??;
        if beginning == Beginning::Added
            && let Some(bos) = self.beginning.filter(|bos| ids.first() != Some(bos))
        {
            ids.insert(0, bos);
        }
        budget.admits(ids.len(), 0)?;
        Ok(ids)
    }

    fn run(&self, text: &str, budget: Budget) -> Result<Vec<u32>, TextError> {
        if let (Some(words), ModelWrapper::BPE(model)) = (&self.words, self.pipeline.get_model()) {
            return words.encode(model, text, budget);
        }
        budget.admits(0, text.len() / NORMALISED_SHRINK_MAX)?;
        let encoding = self.pipeline.encode_fast(text, false).map_err(|error| TextError::Encode(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// A detokenizer for one answer, which shows these control tokens, in ascending order, and no others.
    #[must_use]
    pub fn detokenizer(&self, markers: &Arc<[u32]>) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.pieces), Arc::clone(markers), self.strips_space)
    }

    /// A detokenizer for what goes on with a text: a space before its first word is part of it, and no control token is
    /// shown.
    #[must_use]
    pub fn continuation(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.pieces), Arc::new([]), false)
    }

    /// How many token ids there are, the highest plus one.
    #[must_use]
    pub fn vocabulary_len(&self) -> usize {
        self.pieces.len()
    }

    /// The id of a token as the vocabulary writes it.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.pipeline.token_to_id(token)
    }

    /// The bytes of a token, a control token's own text included; `None` beyond the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.bytes(id)
    }

    /// Whether a token steers the model and is no part of an answer's text.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        self.pieces.is_control(id)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tokenizer").field("vocabulary_len", &self.vocabulary_len()).finish_non_exhaustive()
    }
}

/// The token that the file's own post-processing puts in front of a text.
fn beginning_of(pipeline: &tokenizers::Tokenizer) -> Option<u32> {
    let plain = pipeline.encode_fast("a", false).ok()?;
    let processed = pipeline.encode_fast("a", true).ok()?;
    let first = *processed.get_ids().first()?;
    (plain.get_ids().first() != Some(&first)).then_some(first)
}

/// How a decoder reads tokens, and whether it drops the space that opens a text.
fn reading(decoder: &DecoderWrapper) -> Result<(Spelling, bool), TokenizerError> {
    let unsupported = || TokenizerError::Decoder(serde_json::to_string(decoder).unwrap_or_default());
    let described = serde_json::to_value(decoder).map_err(|_| unsupported())?;
    if described["type"] == "ByteLevel" {
        return Ok((Spelling::ByteLevel, false));
    }
    if described["type"] == "Metaspace" && described["replacement"] == SPACE_MARK.to_string() {
        return Ok((Spelling::Marked, described["prepend_scheme"] != "never"));
    }
    let Some(steps) = described["decoders"].as_array() else { return Err(unsupported()) };
    let (mut replaced, mut stripped) = (false, false);
    for step in steps {
        match step["type"].as_str().unwrap_or_default() {
            "Replace" if step["pattern"]["String"] == SPACE_MARK.to_string() && step["content"] == " " => {
                replaced = true;
            }
            "ByteFallback" | "Fuse" => {}
            "Strip" if step["content"] == " " && step["start"] == 1 && step["stop"] == 0 => stripped = true,
            _ => return Err(unsupported()),
        }
    }
    if replaced { Ok((Spelling::Marked, stripped)) } else { Err(unsupported()) }
}

#[cfg(test)]
mod tests;
