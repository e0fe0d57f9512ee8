//! Text on its way into the model and out of it: chat templates, tokenising, incremental detokenising, stop strings.
//! It knows nothing of HTTP, threads or arrays; what it is given is text and JSON, what it gives is token ids and text.
//! Encoding costs milliseconds to a second and belongs on the blocking pool; a [`Detokenizer`] and [`StopStrings`] cost
//! a copy a token and run wherever events arrive.
//!
//! Invariants: everything here is a function of its arguments (but for the date a template asks for); [`Text`] is
//! shared by all requests and has no state; a failure belongs to one request.

mod detokenizer;
mod folder;
mod messages;
mod pieces;
mod python;
mod stop;
mod template;
mod tokenizer;
mod vocabulary;

use std::path::Path;

use serde_json::{Map, Value};

pub use detokenizer::Detokenizer;
pub use folder::FolderError;
pub use python::Clock;
pub use stop::{Emit, StopStrings};
pub use template::{ChatTemplate, RENDERED_BYTES_MAX, TemplateError};
pub use tokenizer::{Beginning, JSON_BYTES_MAX, Tokenizer, TokenizerError};
pub use vocabulary::{GgufVocabulary, VocabularyError};

/// Control tokens that end a turn, by the names that model families give them. A model may produce any of its own,
/// whichever one its files call the end of text.
const TURN_ENDS: [&str; 10] = [
    "</s>",
    "<eos>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

/// Why a request's text cannot be made into a prompt. All but [`TextError::Encode`] are the client's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The model has no chat template, so only plain completions can be asked of it.
    #[error("the model has no chat template; use /v1/completions")]
    NoTemplate,
    /// The template does not render this conversation.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The conversation renders to nothing, and a prompt has at least one token.
    #[error("the prompt is empty")]
    Empty,
    /// The pipeline failed on this text.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
}

/// A model's way with text: what `http` makes prompts with and reads answers by.
pub struct Text {
    /// Encodes, and makes detokenizers.
    tokenizer: Tokenizer,
    /// Renders conversations; absent from base models.
    template: Option<ChatTemplate>,
    /// Tokens that end an answer, ascending.
    end_ids: Vec<u32>,
}

impl Text {
    /// Puts a model's text together. `end_ids` are the tokens that its files say end an answer; control tokens that are
    /// known to end a turn are added.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, template: Option<ChatTemplate>, end_ids: &[u32]) -> Self {
        let known = TURN_ENDS.iter().filter_map(|token| tokenizer.id_of(token));
        let known = known.filter(|&id| tokenizer.is_control(id));
        let mut end_ids: Vec<u32> = end_ids.iter().copied().chain(known).collect();
        end_ids.sort_unstable();
        end_ids.dedup();
        Self { tokenizer, template, end_ids }
    }

    /// From a folder in the Hugging Face layout: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`.
    /// `end_ids` come from the model's configuration.
    ///
    /// # Errors
    /// When a file is missing that must be there, or is not valid.
    pub fn from_folder(folder: &Path, end_ids: &[u32]) -> Result<Self, FolderError> {
        folder::text(folder, end_ids)
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// When the vocabulary or the template is not supported or not valid.
    pub fn from_gguf(vocabulary: GgufVocabulary, template: Option<&str>) -> Result<Self, FolderError> {
        let template = template.map(|source| ChatTemplate::new(source, vocabulary.named_tokens())).transpose()?;
        let end_ids: Vec<u32> = vocabulary.eos.into_iter().collect();
        Ok(Self::new(Tokenizer::from_gguf(vocabulary)?, template, &end_ids))
    }

    /// The prompt of a conversation: rendered by the model's template up to where the assistant speaks, then encoded.
    ///
    /// # Errors
    /// See [`TextError`]; all of them concern this request only.
    pub fn prompt(
        &self,
        messages: &[Value],
        tools: Option<&[Value]>,
        kwargs: &Map<String, Value>,
    ) -> Result<Vec<u32>, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
        self.encode(&template.render(messages, tools, true, kwargs)?)
    }

    /// The prompt of a plain text.
    ///
    /// # Errors
    /// When the text is empty or cannot be encoded.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let ids = self.tokenizer.encode(text, Beginning::Added)?;
        if ids.is_empty() { Err(TextError::Empty) } else { Ok(ids) }
    }

    /// Reads one answer's tokens back to text.
    #[must_use]
    pub fn detokenizer(&self) -> Detokenizer {
        self.tokenizer.detokenizer()
    }

    /// Tokens that end an answer and are no part of it, ascending.
    #[must_use]
    pub fn end_ids(&self) -> &[u32] {
        &self.end_ids
    }

    /// The tokenizer, for what needs the vocabulary itself.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_serves_all_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Text>();
    }
}
