//! The tokenizer of a GGUF file, as fields. It knows no tokenizer library: `text` makes one of it.

use crate::model::weights::error::Flaw;
use crate::model::weights::gguf::Gguf;

/// Everything that the metadata says about text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vocabulary {
    /// The kind of tokenizer: `gpt2` is byte-level BPE, `llama` is SentencePiece.
    pub model: String,
    /// Which rules split text before BPE: `smollm`, `llama-bpe`, `qwen2` and so on.
    pub pre: Option<String>,
    /// Every token; its place is its id.
    pub tokens: Vec<String>,
    /// Of each token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. As many as tokens, or none.
    pub token_types: Vec<i32>,
    /// BPE merges in their order, each two tokens with a space between.
    pub merges: Vec<String>,
    /// SentencePiece scores; as many as tokens, or none.
    pub scores: Vec<f32>,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends an answer.
    pub eos: Option<u32>,
    /// Stands for what cannot be encoded.
    pub unknown: Option<u32>,
    /// Fills batches.
    pub padding: Option<u32>,
    /// Whether encoding begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether SentencePiece puts a space before the text.
    pub add_space_prefix: Option<bool>,
    /// The chat template's Jinja source.
    pub chat_template: Option<String>,
}

impl Vocabulary {
    /// Reads the tokenizer's keys and checks that they agree with each other.
    ///
    /// # Errors
    /// A key is missing, has the wrong type, or does not fit the others.
    pub fn read(gguf: &Gguf, file: &[u8]) -> Result<Self, Flaw> {
        let metadata = &gguf.metadata;
        let model = metadata.text("tokenizer.ggml.model")?.ok_or_else(|| missing("tokenizer.ggml.model"))?;
        let owned = |texts: Option<Vec<&str>>| texts.unwrap_or_default().into_iter().map(str::to_owned).collect();
        let tokens: Vec<String> = owned(metadata.texts("tokenizer.ggml.tokens", file)?);
        if tokens.is_empty() {
            return Err(missing("tokenizer.ggml.tokens"));
        }
        let token_types = metadata.i32s("tokenizer.ggml.token_type", file)?.unwrap_or_default();
        let scores = metadata.f32s("tokenizer.ggml.scores", file)?.unwrap_or_default();
        one_each("tokenizer.ggml.token_type", token_types.len(), tokens.len())?;
        one_each("tokenizer.ggml.scores", scores.len(), tokens.len())?;
        let id = |key: &str| -> Result<Option<u32>, Flaw> {
            let found = metadata.u32(key)?;
            match found.filter(|id| *id as usize >= tokens.len()) {
                Some(id) => {
                    let expected = format_args!("an id below the {} tokens", tokens.len()).to_string();
                    Err(Flaw::unexpected(format_args!("key {key:?}"), expected, id))
                }
                None => Ok(found),
            }
        };
        Ok(Self {
            model: model.to_owned(),
            pre: metadata.text("tokenizer.ggml.pre")?.map(str::to_owned),
            token_types,
            merges: owned(metadata.texts("tokenizer.ggml.merges", file)?),
            scores,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            padding: id("tokenizer.ggml.padding_token_id")?,
            add_bos: metadata.boolean("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: metadata.boolean("tokenizer.ggml.add_space_prefix")?,
            chat_template: metadata.text("tokenizer.chat_template")?.map(str::to_owned),
            tokens,
        })
    }
}

fn missing(key: &str) -> Flaw {
    Flaw::missing(format_args!("key {key:?}"))
}

fn one_each(key: &str, found: usize, tokens: usize) -> Result<(), Flaw> {
    if found == 0 || found == tokens {
        return Ok(());
    }
    Err(Flaw::unexpected(format_args!("key {key:?}"), format_args!("{tokens} items, one for each token"), found))
}
