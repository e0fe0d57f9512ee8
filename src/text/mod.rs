//! Text on its way into the model and out of it: chat templates, tokenising, incremental detokenising, stop strings.
//! It knows nothing of HTTP, threads or arrays; what it is given is text and JSON, what it gives is token ids and text.
//! Encoding costs milliseconds to a second and belongs on the blocking pool; [`Detokenizer`], [`stop::StopStrings`] cost
//! a copy a token and run wherever events arrive.
//!
//! Invariants: everything here is a function of its arguments (but for the date a template asks for); [`Text`] is
//! shared by all requests and has no state; a failure belongs to one request.

pub mod answer;
pub mod channel;
pub mod detokenizer;
mod folded;
mod marker;
mod messages;
mod pieces;
mod python;
pub mod shape;
pub mod stop;
pub mod template;
pub mod tokenizer;
pub mod tools;
pub mod vocabulary;
mod words;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::text::channel::format::{Format, Opening};
use crate::text::detokenizer::Detokenizer;
use crate::text::template::{ChatTemplate, TemplateError};
use crate::text::tokenizer::{Beginning, Tokenizer, TokenizerError};
use crate::text::tools::ToolFormat;
use crate::text::vocabulary::GgufVocabulary;

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

/// Harmony's: there `<|end|>` ends one message of an answer, and these end the answer.
const HARMONY_TURN_ENDS: [&str; 2] = ["<|return|>", "<|call|>"];

/// The token that in Harmony does not end the answer.
const HARMONY_MESSAGE_END: &str = "<|end|>";

/// The special tokens that templates name, where `tokenizer_config.json` has them.
const NAMED_TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// Why a model's text cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The vocabulary makes no tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template does not compile.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

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
    /// The prompt alone is longer than the model's context.
    #[error("the prompt is longer than the {tokens_max} tokens that the context holds")]
    TooLong {
        /// The limit it was given.
        tokens_max: u32,
    },
    /// The pipeline failed on this text.
    #[error("the text cannot be encoded: {0}")]
    Encode(String),
}

/// A model's way with text: what `http` makes prompts with and reads answers by.
#[derive(Debug)]
pub struct Text {
    /// Encodes, and makes detokenizers.
    tokenizer: Tokenizer,
    /// Renders conversations; absent from base models.
    template: Option<ChatTemplate>,
    /// Tokens that end an answer, ascending.
    end_ids: Vec<u32>,
    /// How answers are laid out.
    format: Format,
    /// Control tokens that answers are read by, so that they must come as text; ascending.
    marker_ids: Arc<[u32]>,
}

/// Who speaks behind a conversation that is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The assistant: what opens its answer is the end of the text.
    Assistant,
    /// Nobody: the text ends with the last message.
    Nobody,
}

/// A conversation, ready for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// What is evaluated; at least one token.
    pub tokens: Vec<u32>,
    /// How the answer begins behind it.
    pub opening: Opening,
}

impl Text {
    /// Puts a model's text together. `end_ids` are the tokens that its files say end an answer; control tokens that are
    /// known to end a turn are added.
    #[must_use]
    pub fn new(tokenizer: Tokenizer, template: Option<ChatTemplate>, end_ids: &[u32]) -> Self {
        let control = |token: &&str| tokenizer.id_of(token).filter(|&id| tokenizer.is_control(id));
        let source = template.as_ref().map(ChatTemplate::source).unwrap_or_default();
        let mut format = Format::of_template(source, &|token| tokenizer.id_of(token).is_some());
        if template.as_ref().is_some_and(|template| !template.knows_tools()) {
            format.tools = Some(ToolFormat::Hermes);
        }
        let mut end_ids: Vec<u32> = end_ids.iter().copied().chain(TURN_ENDS.iter().filter_map(control)).collect();
        if format.is_harmony() {
            let message_end = control(&HARMONY_MESSAGE_END);
            end_ids.retain(|&id| Some(id) != message_end);
            end_ids.extend(HARMONY_TURN_ENDS.iter().filter_map(control));
        }
        end_ids.sort_unstable();
        end_ids.dedup();
        let mut marker_ids: Vec<u32> = format.control_markers().iter().filter_map(control).collect();
        marker_ids.sort_unstable();
        Self { tokenizer, template, end_ids, format, marker_ids: marker_ids.into() }
    }

    /// From the files of a Hugging Face folder: the path of `tokenizer.json`, the content of `tokenizer_config.json`,
    /// and the template's source. `end_ids` come from the model's configuration.
    ///
    /// # Errors
    /// When the tokenizer or the template is not supported or not valid.
    pub fn from_json(
        tokenizer_json: &Path,
        tokenizer_config: &Value,
        template: Option<&str>,
        end_ids: &[u32],
    ) -> Result<Self, LoadError> {
        let tokenizer = Tokenizer::from_file(tokenizer_json)?;
        // A token is written as its text or as an object that holds it.
        let token = |name| {
            let token: &Value = &tokenizer_config[name];
            token.as_str().or_else(|| token["content"].as_str())
        };
        let named = NAMED_TOKENS.into_iter().filter_map(|name| Some((name, token(name)?.to_owned())));
        let template = template.map(|source| ChatTemplate::new(source, named)).transpose()?;
        let own_end = token("eos_token").and_then(|text| tokenizer.id_of(text));
        let end_ids: Vec<u32> = end_ids.iter().copied().chain(own_end).collect();
        Ok(Self::new(tokenizer, template, &end_ids))
    }

    /// From the metadata of a GGUF file.
    ///
    /// # Errors
    /// When the vocabulary or the template is not supported or not valid.
    pub fn from_gguf(vocabulary: GgufVocabulary, template: Option<&str>) -> Result<Self, LoadError> {
        let template = template.map(|source| ChatTemplate::new(source, vocabulary.named_tokens())).transpose()?;
        let end_ids: Vec<u32> = vocabulary.eos.into_iter().collect();
        Ok(Self::new(Tokenizer::from_gguf(vocabulary)?, template, &end_ids))
    }

    /// The prompt of a conversation: rendered by the model's template up to where the assistant speaks, then encoded.
    /// It is refused beyond `tokens_max`, before it costs more than those.
    ///
    /// # Errors
    /// See [`TextError`]; all of them concern this request only.
    pub fn prompt(
        &self,
        messages: &[Value],
        tools: Option<&[Value]>,
        kwargs: &Map<String, Value>,
        tokens_max: u32,
    ) -> Result<Prompt, TextError> {
        let rendered = self.rendered(messages, tools, kwargs, Speaker::Assistant)?;
        Ok(Prompt { tokens: self.encode(&rendered, tokens_max)?, opening: self.format.opening(&rendered) })
    }

    /// A conversation as the model's template writes it.
    ///
    /// # Errors
    /// When there is no template, or it does not render this conversation.
    pub fn rendered(
        &self,
        messages: &[Value],
        tools: Option<&[Value]>,
        kwargs: &Map<String, Value>,
        speaker: Speaker,
    ) -> Result<String, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
        Ok(template.render(messages, tools, speaker == Speaker::Assistant, kwargs)?)
    }

    /// The prompt of a plain text, of `tokens_max` tokens at most.
    ///
    /// # Errors
    /// When the text is empty, too long, or cannot be encoded.
    pub fn encode(&self, text: &str, tokens_max: u32) -> Result<Vec<u32>, TextError> {
        let ids = self.tokenizer.encode(text, Beginning::Added, tokens_max)?;
        if ids.is_empty() { Err(TextError::Empty) } else { Ok(ids) }
    }

    /// The text of tokens, control tokens among them; bytes that are no text are U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut shown: Vec<u32> = tokens.iter().copied().filter(|&id| self.tokenizer.is_control(id)).collect();
        shown.sort_unstable();
        let mut detokenizer = self.tokenizer.detokenizer(&shown.into());
        let mut text: String = tokens.iter().map(|&id| detokenizer.push(id)).collect();
        text.push_str(&detokenizer.finish());
        text
    }

    /// Reads one answer's tokens back to text.
    #[must_use]
    pub fn detokenizer(&self) -> Detokenizer {
        self.tokenizer.detokenizer(&self.marker_ids)
    }

    /// Reads back to text the tokens that go on with a plain text; no control token is shown.
    #[must_use]
    pub fn continuation(&self) -> Detokenizer {
        self.tokenizer.continuation()
    }

    /// How answers are laid out.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// The token behind which an answer that begins with anything thinks.
    #[must_use]
    pub fn thinking_token(&self) -> Option<u32> {
        self.tokenizer.id_of(self.format.reasoning?.open_token())
    }

    /// Whether a token steers the model and is neither shown nor needed to read an answer by.
    #[must_use]
    pub fn is_hidden(&self, id: u32) -> bool {
        self.tokenizer.is_control(id) && self.marker_ids.binary_search(&id).is_err()
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
