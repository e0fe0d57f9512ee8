//! The vocabulary inside a GGUF file, made into the pipeline that its model was trained with. GGUF names the
//! pre-tokeniser (`tokenizer.ggml.pre`) and leaves its meaning to the reader; the meanings known here are those of the
//! published `tokenizer.json` files of the same models. What is not known is refused, never approximated: a wrong
//! split gives plausible nonsense.

use tokenizers::decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NFC, Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::{
    PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence as PreTokenizers, split::Split,
    split::SplitPattern,
};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, SplitDelimiterBehavior};

use crate::text::pieces::{Role, SPACE_MARK, Spelling, TOKENS_MAX, Token};

/// Most merges a vocabulary may have; real ones have about as many as tokens.
const MERGES_MAX: usize = 2 * TOKENS_MAX;

/// `tokenizer.ggml.token_type` of a token that stands for "no token".
const TYPE_UNKNOWN: i32 = 2;
/// `tokenizer.ggml.token_type` of a token that steers the model.
const TYPE_CONTROL: i32 = 3;
/// `tokenizer.ggml.token_type` of a token added beside the vocabulary.
const TYPE_USER_DEFINED: i32 = 4;

/// GPT-2's split: words with the space before them, numbers whole. The library has it built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's split: words with one mark before them, numbers by three digits.
const LLAMA_BPE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's split: as Llama 3's, numbers digit by digit.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a GGUF file says about its vocabulary, under `tokenizer.ggml.*`.
#[derive(Debug, Clone)]
pub struct GgufVocabulary {
    /// `model`: `gpt2` is byte-level BPE, `llama` is sentencepiece BPE.
    pub model: String,
    /// `pre`: which pre-tokeniser a `gpt2` vocabulary was trained with.
    pub pre: Option<String>,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `token_type`, one a token; empty when the file has none.
    pub token_types: Vec<i32>,
    /// `merges`: pairs written `left right`, best first; of `gpt2` only.
    pub merges: Vec<String>,
    /// `scores`, one a token; of `llama` only.
    pub scores: Vec<f32>,
    /// `bos_token_id`: opens a text.
    pub bos: Option<u32>,
    /// `eos_token_id`: ends an answer.
    pub eos: Option<u32>,
    /// `unknown_token_id`: stands for what cannot be spelled.
    pub unknown: Option<u32>,
    /// `padding_token_id`: fills batches; only templates name it.
    pub padding: Option<u32>,
    /// `add_bos_token`: a text is to begin with `bos`. Of a silent file, true for `llama` and for Llama 3.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`: a text is to begin with a space; of `llama` only, and true there of a silent file.
    pub add_space_prefix: Option<bool>,
}

/// Why a vocabulary is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyError {
    /// A kind of vocabulary that is not supported.
    #[error("tokenizer.ggml.model is {0:?}; supported are \"gpt2\" and \"llama\"")]
    Model(String),
    /// A pre-tokeniser that is not supported.
    #[error("tokenizer.ggml.pre is {0}; supported are {names}", names = PreTokenizer::names())]
    PreTokenizer(String),
    /// A list that does not have one entry a token.
    #[error("tokenizer.ggml.{key} has {len} entries; expected one for each of {tokens} tokens")]
    Length {
        /// Which list.
        key: &'static str,
        /// Its length.
        len: usize,
        /// How many tokens there are.
        tokens: usize,
    },
    /// More tokens or merges than any real vocabulary has.
    #[error("tokenizer.ggml.{key} has {len} entries; the limit is {max}")]
    TooMany {
        /// Which list.
        key: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A merge that is not two tokens making a third.
    #[error(
        "tokenizer.ggml.merges[{index}] is {merge:?}; expected two tokens with a space between, joined a token too"
    )]
    Merge {
        /// Its place in the list.
        index: usize,
        /// What it says.
        merge: String,
    },
    /// An id that names no token.
    #[error("tokenizer.ggml.{key} is {id}; expected an id below {tokens}")]
    Id {
        /// Which id.
        key: &'static str,
        /// What it says.
        id: u32,
        /// How many tokens there are.
        tokens: usize,
    },
    /// The parts are each valid, and the `tokenizers` crate refuses the whole.
    #[error("the vocabulary makes no tokenizer: {0}")]
    Pipeline(String),
}

impl GgufVocabulary {
    /// How its tokens are spelled.
    pub(super) fn spelling(&self) -> Result<Spelling, VocabularyError> {
        match self.model.as_str() {
            "gpt2" => Ok(Spelling::ByteLevel),
            "llama" => Ok(Spelling::Marked),
            _ => Err(VocabularyError::Model(self.model.clone())),
        }
    }

    /// Whether a text is to begin with `bos`.
    pub(super) fn adds_bos(&self) -> bool {
        self.add_bos.unwrap_or(self.model == "llama" || self.pre.as_deref() == Some("llama-bpe"))
    }

    /// Whether a text is to begin with a space that is not written.
    pub(super) fn adds_space(&self) -> bool {
        self.model == "llama" && self.add_space_prefix.unwrap_or(true)
    }

    /// Each token with what it is for.
    pub(super) fn roles(&self) -> Vec<Token<'_>> {
        let types = self.token_types.iter().copied().chain(std::iter::repeat(1));
        let role = |kind| match kind {
            TYPE_CONTROL | TYPE_UNKNOWN => Role::Control,
            TYPE_USER_DEFINED => Role::Added,
            _ => Role::Word,
        };
        let tokens = self.tokens.iter().zip(types).zip(0..);
        tokens.map(|((text, kind), id)| Token { id, text, role: role(kind) }).collect()
    }

    /// The texts of the tokens that chat templates name, by the names they use.
    #[must_use]
    pub fn named_tokens(&self) -> Vec<(&'static str, String)> {
        let named = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ];
        let text = |id: u32| self.tokens.get(id as usize).cloned();
        named.into_iter().filter_map(|(name, id)| Some((name, id.and_then(text)?))).collect()
    }

    /// The pipeline of this vocabulary.
    pub(super) fn into_pipeline(self) -> Result<tokenizers::Tokenizer, VocabularyError> {
        self.check()?;
        let spelling = self.spelling()?;
        let added: Vec<AddedToken> = self.added_tokens();
        let vocab: Vocab = self.tokens.iter().cloned().zip(0..).collect();
        let pipeline_error = |error: tokenizers::Error| VocabularyError::Pipeline(error.to_string());
        let mut pipeline = match spelling {
            Spelling::ByteLevel => self.byte_level(vocab)?,
            Spelling::Marked => self.marked(vocab)?,
        };
        pipeline.add_tokens(added).map_err(pipeline_error)?;
        Ok(pipeline)
    }

    fn check(&self) -> Result<(), VocabularyError> {
        let tokens = self.tokens.len();
        for (key, len, max) in [("tokens", tokens, TOKENS_MAX), ("merges", self.merges.len(), MERGES_MAX)] {
            if len > max {
                return Err(VocabularyError::TooMany { key, len, max });
            }
        }
        let needs_scores = self.model == "llama";
        for (key, len, needed) in
            [("token_type", self.token_types.len(), false), ("scores", self.scores.len(), needs_scores)]
        {
            if len != tokens && (needed || len != 0) {
                return Err(VocabularyError::Length { key, len, tokens });
            }
        }
        let ids = [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("unknown_token_id", self.unknown),
            ("padding_token_id", self.padding),
        ];
        for (key, id) in ids {
            if let Some(id) = id.filter(|&id| id as usize >= tokens) {
                return Err(VocabularyError::Id { key, id, tokens });
            }
        }
        Ok(())
    }

    /// Tokens that are matched in a text before anything else. They are matched as written: nothing around them is
    /// swallowed and no normaliser touches them.
    fn added_tokens(&self) -> Vec<AddedToken> {
        let added = self.roles().into_iter().filter(|token| token.role != Role::Word);
        added.map(|token| AddedToken::from(token.text, token.role == Role::Control).normalized(false)).collect()
    }

    /// A byte that has no token is dropped from a text, as every reader of these vocabularies does (SmolLM2's lacks
    /// several control bytes).
    fn byte_level(&self, vocab: Vocab) -> Result<tokenizers::Tokenizer, VocabularyError> {
        let name = self.pre.as_ref().map_or_else(|| "missing".to_owned(), |pre| format!("{pre:?}"));
        let pre = self.pre.as_deref().and_then(PreTokenizer::named).ok_or(VocabularyError::PreTokenizer(name))?;
        let merges = self.merges.iter().enumerate().map(|(index, merge)| {
            let fits = merge.split_once(' ').filter(|(left, right)| {
                [*left, *right].iter().all(|part| vocab.contains_key(*part))
                    && vocab.contains_key(&format!("{left}{right}"))
            });
            let (left, right) = fits.ok_or_else(|| VocabularyError::Merge { index, merge: merge.clone() })?;
            Ok((left.to_owned(), right.to_owned()))
        });
        let merges: Merges = merges.collect::<Result<_, VocabularyError>>()?;
        let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre == PreTokenizer::LlamaBpe);
        let model = model.build().map_err(|error| VocabularyError::Pipeline(error.to_string()))?;
        let mut pipeline = tokenizers::Tokenizer::new(model);
        if pre == PreTokenizer::Qwen2 {
            pipeline.with_normalizer(Some(NFC)).map_err(|error| VocabularyError::Pipeline(error.to_string()))?;
        }
        pipeline.with_pre_tokenizer(Some(pre.build()?));
        pipeline.with_decoder(Some(ByteLevel::default()));
        Ok(pipeline)
    }

    /// Sentencepiece's BPE: the merges are implied by the scores of what they make. A pair that makes a better piece
    /// goes first; among equals the longer left part, then the longer right part, then the lower ids.
    fn marked(&self, vocab: Vocab) -> Result<tokenizers::Tokenizer, VocabularyError> {
        let mut merges: Vec<(f32, &str, &str)> = Vec::new();
        for (piece, &score) in self.tokens.iter().zip(&self.scores) {
            let splits = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
            let mut pairs: Vec<(&str, &str)> =
                splits.filter(|(left, right)| vocab.contains_key(*left) && vocab.contains_key(*right)).collect();
            pairs.sort_by_key(|(left, right)| (vocab[*left], vocab[*right]));
            merges.extend(pairs.into_iter().map(|(left, right)| (score, left, right)));
            if merges.len() > MERGES_MAX {
                return Err(VocabularyError::TooMany { key: "tokens", len: merges.len(), max: MERGES_MAX });
            }
        }
        let lengths = |left: &str, right: &str| (left.chars().count(), right.chars().count());
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| lengths(b.1, b.2).cmp(&lengths(a.1, a.2))));
        let merges: Merges = merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect();

        let mut model = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = self.unknown {
            model = model.unk_token(self.tokens[unknown as usize].clone());
        }
        let pipeline_error = |error: tokenizers::Error| VocabularyError::Pipeline(error.to_string());
        let mut pipeline = tokenizers::Tokenizer::new(model.build().map_err(pipeline_error)?);
        let mark = SPACE_MARK.to_string();
        let replace = Replace::new(" ", mark.clone()).map_err(pipeline_error)?;
        let prepend = self.adds_space().then(|| NormalizerWrapper::from(Prepend::new(mark.clone())));
        let normalizers = prepend.into_iter().chain([NormalizerWrapper::from(replace)]).collect();
        pipeline.with_normalizer(Some(Normalizers::new(normalizers))).map_err(pipeline_error)?;
        let spaces = tokenizers::normalizers::replace::Replace::new(mark, " ").map_err(pipeline_error)?;
        let mut decoders: Vec<DecoderWrapper> =
            vec![spaces.into(), ByteFallback::default().into(), Fuse::default().into()];
        decoders.extend(self.adds_space().then(|| Strip::new(' ', 1, 0).into()));
        pipeline.with_decoder(Some(Decoders::new(decoders)));
        Ok(pipeline)
    }
}

/// The pre-tokenisers that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    Gpt2,
    LlamaBpe,
    Qwen2,
    Smollm,
}

impl PreTokenizer {
    /// By the names that GGUF files use.
    const NAMED: [(&'static str, Self); 4] =
        [("gpt-2", Self::Gpt2), ("llama-bpe", Self::LlamaBpe), ("qwen2", Self::Qwen2), ("smollm", Self::Smollm)];

    fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|&(_, pre)| pre)
    }

    fn names() -> String {
        Self::NAMED.map(|(name, _)| format!("{name:?}")).join(", ")
    }

    /// Recognises one that a `tokenizer.json` spells out.
    pub(super) fn of(spelled_out: &PreTokenizerWrapper) -> Option<Self> {
        let described = described(spelled_out);
        let known = Self::NAMED.iter().map(|&(_, pre)| pre);
        known.into_iter().find(|pre| pre.build().is_ok_and(|built| self::described(&built) == described))
    }

    /// The expression that matches each word.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Gpt2 | Self::Smollm => GPT2,
            Self::LlamaBpe => LLAMA_BPE,
            Self::Qwen2 => QWEN2,
        }
    }

    /// Whether every digit is a word of its own before the expression sees anything.
    pub(super) fn splits_digits(self) -> bool {
        self == Self::Smollm
    }

    fn build(self) -> Result<PreTokenizerWrapper, VocabularyError> {
        let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
        match self {
            Self::Gpt2 => Ok(bytes(true)),
            Self::Smollm => Ok(PreTokenizers::new(vec![Digits::new(true).into(), bytes(true)]).into()),
            Self::LlamaBpe | Self::Qwen2 => {
                let pattern = SplitPattern::Regex(self.pattern().to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                    .map_err(|error| VocabularyError::Pipeline(error.to_string()))?;
                Ok(PreTokenizers::new(vec![split.into(), bytes(false)]).into())
            }
        }
    }
}

/// A pre-tokeniser as JSON, without what concerns offsets only.
fn described(pre: &PreTokenizerWrapper) -> Option<serde_json::Value> {
    let mut described = serde_json::to_value(pre).ok()?;
    let steps = described.get_mut("pretokenizers").and_then(serde_json::Value::as_array_mut);
    let forget = |step: &mut serde_json::Value| drop(step.as_object_mut().map(|step| step.remove("trim_offsets")));
    steps.into_iter().flatten().for_each(forget);
    forget(&mut described);
    Some(described)
}

#[cfg(test)]
pub(in crate::text) mod tests;
