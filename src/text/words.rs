//! The byte-level pipelines in use, run word by word. The `tokenizers` crate aligns every byte of a text with its
//! origin, several times over and all at once; nobody here asks where a token came from. This runs the same regular
//! expression and the same merges over one word at a time, in a buffer of one word, and stops as soon as a prompt
//! cannot fit: a body of 8 MiB costs what fits the context and no more.
//!
//! Invariant: for every text the ids are those of the pipeline it was made from.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::utils::SysRegex;
use tokenizers::{Model as _, ModelWrapper, NormalizedString, Normalizer as _, NormalizerWrapper};

use crate::text::TextError;
use crate::text::pieces::alphabet;
use crate::text::vocabulary::PreTokenizer;

/// Below this no character composes with another, so a text is in normal form C already.
const FIRST_COMBINING: char = '\u{300}';

/// What a prompt may come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Most tokens.
    pub tokens_max: u32,
    /// Most bytes that one token stands for; at least 1.
    pub token_bytes_max: usize,
}

impl Budget {
    /// Whether `bytes` more could fit after `tokens`.
    pub fn admits(self, tokens: usize, bytes: usize) -> Result<(), TextError> {
        if tokens + bytes.div_ceil(self.token_bytes_max) <= self.tokens_max as usize {
            return Ok(());
        }
        Err(TextError::TooLong { tokens_max: self.tokens_max })
    }
}

/// A pipeline that is run word by word.
pub(super) struct Words {
    /// Finds the tokens that are matched before anything else, the longest at each place.
    added: AhoCorasick,
    /// The ids of those tokens, in the order of the patterns.
    added_ids: Vec<u32>,
    /// Cuts what is between them.
    pre: PreTokenizer,
    /// The expression of `pre`.
    pattern: SysRegex,
    /// Texts are brought to normal form C first.
    composes: bool,
    /// The character that writes each byte.
    alphabet: [char; 256],
}

impl Words {
    /// Recognises a pipeline that is byte-level BPE behind a known pre-tokeniser, with added tokens that are matched as
    /// written. `None` for any other: the library runs it.
    pub fn of(pipeline: &tokenizers::Tokenizer) -> Option<Self> {
        let composes = match pipeline.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let ModelWrapper::BPE(model) = pipeline.get_model() else { return None };
        if model.dropout.is_some() || model.byte_fallback || pipeline.get_added_vocabulary().get_encode_special_tokens()
        {
            return None;
        }
        let added = pipeline.get_added_tokens_decoder();
        let as_written =
            added.values().all(|token| !(token.lstrip || token.rstrip || token.single_word || token.normalized));
        if !as_written {
            return None;
        }
        let pre = PreTokenizer::of(pipeline.get_pre_tokenizer()?)?;
        let (added_ids, texts): (Vec<u32>, Vec<&str>) =
            added.iter().map(|(&id, token)| (id, token.content.as_str())).unzip();
        let added = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts).ok()?;
        let pattern = SysRegex::new(pre.pattern()).ok()?;
        Some(Self { added, added_ids, pre, pattern, composes, alphabet: alphabet() })
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// As soon as they are more than the budget admits.
    pub fn encode(&self, model: &BPE, text: &str, budget: Budget) -> Result<Vec<u32>, TextError> {
        let mut run = Run { words: self, model, budget, ids: Vec::new(), word: String::new() };
        let mut done = 0;
        for found in self.added.find_iter(text) {
            run.segment(&text[done..found.start()])?;
            run.ids.push(self.added_ids[found.pattern()]);
            done = found.end();
        }
        run.segment(&text[done..])?;
        budget.admits(run.ids.len(), 0)?;
        Ok(run.ids)
    }
}

/// One text being encoded.
struct Run<'a> {
    words: &'a Words,
    model: &'a BPE,
    budget: Budget,
    /// Its ids so far.
    ids: Vec<u32>,
    /// One word in the byte alphabet; kept for its room.
    word: String,
}

impl Run<'_> {
    /// Text between added tokens.
    fn segment(&mut self, segment: &str) -> Result<(), TextError> {
        let composed = if self.words.composes { composed(segment)? } else { Cow::Borrowed(segment) };
        if !self.words.pre.splits_digits() {
            return self.cut(&composed);
        }
        let mut rest = composed.as_ref();
        while let Some(at) = rest.find(char::is_numeric) {
            let digit = rest[at..].chars().next().map_or(0, char::len_utf8);
            self.cut(&rest[..at])?;
            self.token(&rest[at..at + digit])?;
            rest = &rest[at + digit..];
        }
        self.cut(rest)
    }

    /// Cuts a text by the expression; what it does not match is a word too.
    fn cut(&mut self, text: &str) -> Result<(), TextError> {
        let mut done = 0;
        let words = self.words;
        for (start, end) in words.pattern.find_iter(text) {
            self.token(&text[done..start])?;
            self.token(&text[start..end])?;
            done = end;
        }
        self.token(&text[done..])
    }

    /// Merges one word.
    fn token(&mut self, word: &str) -> Result<(), TextError> {
        if word.is_empty() {
            return Ok(());
        }
        self.budget.admits(self.ids.len(), word.len())?;
        self.word.clear();
        self.word.extend(word.bytes().map(|byte| self.words.alphabet[usize::from(byte)]));
        let tokens = self.model.tokenize(&self.word).map_err(|error| TextError::Encode(error.to_string()))?;
        self.ids.extend(tokens.iter().map(|token| token.id));
        Ok(())
    }
}

fn composed(text: &str) -> Result<Cow<'_, str>, TextError> {
    if text.chars().all(|character| character < FIRST_COMBINING) {
        return Ok(Cow::Borrowed(text));
    }
    let mut normalized = NormalizedString::from(text);
    NFC.normalize(&mut normalized).map_err(|error| TextError::Encode(error.to_string()))?;
    Ok(Cow::Owned(normalized.get().to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::vocabulary::tests::bytes_and_merges;

    const ROOMY: Budget = Budget { tokens_max: 1 << 20, token_bytes_max: 64 };

    fn run(pipeline: &tokenizers::Tokenizer, text: &str, budget: Budget) -> Result<Vec<u32>, TextError> {
        let ModelWrapper::BPE(model) = pipeline.get_model() else { panic!("byte-level BPE") };
        Words::of(pipeline).expect("a known pipeline").encode(model, text, budget)
    }

    fn pipeline(pre: &str) -> tokenizers::Tokenizer {
        bytes_and_merges(pre).into_pipeline().expect("a valid vocabulary")
    }

    #[test]
    fn what_cannot_fit_is_refused_before_it_is_merged() {
        let tight = Budget { tokens_max: 3, token_bytes_max: 6 };
        assert!(run(&pipeline("gpt-2"), "hello hello hello", tight).is_ok());
        for text in ["hello hello hello hello", "<s><s><s><s>", "one two three", "aaaaaaaaaaaaaaaaaaa"] {
            assert_eq!(run(&pipeline("gpt-2"), text, tight), Err(TextError::TooLong { tokens_max: 3 }), "{text}");
        }
    }

    #[test]
    fn a_pipeline_that_is_not_known_is_left_to_the_library() {
        let mut swallowing = pipeline("gpt-2");
        let token = tokenizers::AddedToken::from("<tool>", false).normalized(false).lstrip(true);
        swallowing.add_tokens([token]).expect("a valid token");
        assert!(Words::of(&swallowing).is_none());
        let mut unsplit = pipeline("gpt-2");
        unsplit.with_pre_tokenizer(None::<tokenizers::PreTokenizerWrapper>);
        assert!(Words::of(&unsplit).is_none());
    }

    proptest! {
        #[test]
        fn word_by_word_gives_the_ids_of_the_pipeline(
            parts in prop::collection::vec(prop_oneof![
                "\\PC{0,12}", "[a-z 0-9'\\r\\n\\t]{0,16}", "(hello| hello|123|<s>|</s>|<tool>|<s|\\s{2,9}){0,6}",
                "[e\u{301}\u{1100}\u{1161}\u{11a8}\u{212b}\u{f900}\u{660}\u{bd}]{0,8}",
            ], 0..6),
            pre in prop::sample::select(vec!["gpt-2", "llama-bpe", "qwen2", "smollm"]),
        ) {
            let text = parts.concat();
            let pipeline = pipeline(pre);
            let whole = pipeline.encode_fast(text.as_str(), false).expect("any text").get_ids().to_vec();
            prop_assert_eq!(run(&pipeline, &text, ROOMY), Ok(whole));
        }
    }
}
