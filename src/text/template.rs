//! Chat templates: a model's own Jinja source turns messages and tools into the text it was trained on, byte for byte
//! as `transformers` renders it. A template comes with the model and is data, not code of ours: its work and its output
//! are bounded, and what it refuses is told to the client in its own words.

use std::error::Error as _;
use std::io;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Map;
use time::OffsetDateTime;

use crate::text::folded::folded;
use crate::text::messages::{Message, normalised, rearranged};
use crate::text::python::{Raised, install};

/// The time that `strftime_now` prints.
pub type Clock = fn() -> OffsetDateTime;

/// Instructions a rendering may execute, and 64 bytes of data each: room for the largest request in the most laborious
/// template known, and a second or two of work at most.
const FUEL: u64 = 16 << 20;

/// Longest rendered text; four times the largest request body, because templates repeat what they are given.
pub const RENDERED_BYTES_MAX: usize = 32 << 20;

/// How deep macros may call each other; tool schemas are 32 deep at most.
const RECURSION_MAX: usize = 128;

/// The one template in the environment.
const NAME: &str = "chat_template";

/// Variables that a template gets from us and from nobody else.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Why a template does not render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template itself is not valid; found when it is loaded.
    #[error("the chat template is not valid: {0}")]
    Syntax(String),
    /// The template refuses the conversation; the message is its own.
    #[error("{0}")]
    Raised(String),
    /// The template stumbled over the conversation.
    #[error("the chat template failed: {0}")]
    Failed(String),
    /// A message that no template could render.
    #[error("messages[{index}]: {reason}")]
    Message {
        /// Its place in the conversation.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A template variable that a request may not set.
    #[error("chat_template_kwargs may not set {0:?}")]
    Reserved(String),
    /// The template does more than `FUEL` allows.
    #[error("the chat template does more work than its limit of {FUEL} instructions allows")]
    TooMuchWork,
    /// The text is longer than [`RENDERED_BYTES_MAX`].
    #[error("the rendered chat is longer than the limit of {RENDERED_BYTES_MAX} bytes")]
    TooLong,
}

/// A compiled chat template with the texts of the tokens that it names.
#[derive(Debug)]
pub struct ChatTemplate {
    /// Holds the compiled template and what it may call.
    environment: Environment<'static>,
    /// As it came.
    source: String,
    /// It prints tools, or says something of them.
    knows_tools: bool,
    /// `bos_token`, `eos_token` and their like.
    named_tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Compiles `source`. `named_tokens` are the special tokens by the names that templates use (`bos_token`, …); a
    /// name that is absent prints nothing.
    ///
    /// # Errors
    /// When the source is not a valid template.
    pub fn new<N: Into<String>>(
        source: &str,
        named_tokens: impl IntoIterator<Item = (N, String)>,
    ) -> Result<Self, TemplateError> {
        Self::with_clock(source, named_tokens, OffsetDateTime::now_utc)
    }

    /// As [`ChatTemplate::new`], with another clock behind `strftime_now` than UTC.
    ///
    /// # Errors
    /// When the source is not a valid template.
    pub fn with_clock<N: Into<String>>(
        source: &str,
        named_tokens: impl IntoIterator<Item = (N, String)>,
        clock: Clock,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        install(&mut environment, clock);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION_MAX);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| TemplateError::Syntax(described(&error)))?;
        let named_tokens = named_tokens.into_iter().map(|(name, text)| (name.into(), text)).collect();
        let knows_tools = source.contains("tools");
        Ok(Self { environment, source: source.to_owned(), knows_tools, named_tokens })
    }

    /// The source that it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template prints tools, or says something of them. Where it does not, they are told as text.
    #[must_use]
    pub fn knows_tools(&self) -> bool {
        self.knows_tools
    }

    /// Renders a conversation. When the template refuses its arrangement, the arrangements that mean the same are tried
    /// before the refusal is given back: system messages gathered or folded into the first user turn, neighbouring
    /// turns of one role merged.
    ///
    /// # Errors
    /// What the template raised, or what is wrong with a message.
    pub fn render(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&[serde_json::Value]>,
        add_generation_prompt: bool,
        kwargs: &Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        if let Some(name) = kwargs.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(TemplateError::Reserved(name.clone()));
        }
        let named_tokens = self.named_tokens.iter().map(|(name, text)| (name.as_str(), Value::from(text.as_str())));
        let mut messages = normalised(messages)?;
        if !self.knows_tools {
            messages = folded(messages, tools.unwrap_or_default());
        }
        let tools = tools.map_or_else(|| Value::from(()), |tools| Value::from(Serde(tools)));
        let given =
            [("tools", tools), ("documents", ().into()), ("add_generation_prompt", add_generation_prompt.into())];
        let extras = kwargs.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        let context: Vec<(&str, Value)> = named_tokens.chain(extras).chain(given).collect();

        let refusal = match self.attempt(&messages, &context) {
            Err(refusal @ TemplateError::Raised(_)) => refusal,
            decided => return decided,
        };
        let mut others = rearranged(&messages).into_iter();
        others.find_map(|arrangement| self.attempt(&arrangement, &context).ok()).ok_or(refusal)
    }

    fn attempt(&self, messages: &[Message], context: &[(&str, Value)]) -> Result<String, TemplateError> {
        let messages = ("messages", Value::from(Serde(messages)));
        let context = Value::from_pairs(context.iter().cloned().chain([messages]));
        let template = self.environment.get_template(NAME).map_err(|error| TemplateError::Syntax(described(&error)))?;
        let mut rendered = Bounded { text: Vec::new(), overflowed: false };
        let outcome = template.render_captured_to(context, &mut rendered).map(drop);
        match outcome {
            Ok(()) => Ok(String::from_utf8(rendered.text).expect("a template writes whole strings")),
            Err(_) if rendered.overflowed => Err(TemplateError::TooLong),
            Err(error) if error.kind() == ErrorKind::OutOfFuel => Err(TemplateError::TooMuchWork),
            Err(error) => Err(match raised(&error) {
                Some(message) => TemplateError::Raised(message),
                None => TemplateError::Failed(described(&error)),
            }),
        }
    }
}

/// The message of `raise_exception`, however deep in macros it was called.
fn raised(error: &minijinja::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return Some(message.clone());
        }
        cause = inner.source();
    }
    None
}

fn described(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

/// `{% generation %}` marks for training what the assistant said; for us the block is its content.
fn without_generation_tags(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length]);
        plain.push_str(before);
        let word = tag.trim_start_matches("{%").trim_matches(|mark: char| mark.is_whitespace() || "-+".contains(mark));
        match word {
            "generation" => plain.push_str(&tag.replacen(word, "if true", 1)),
            "endgeneration" => plain.push_str(&tag.replacen(word, "endif", 1)),
            _ => plain.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    plain.push_str(rest);
    plain
}

/// Takes a rendering up to [`RENDERED_BYTES_MAX`].
struct Bounded {
    /// What was rendered.
    text: Vec<u8>,
    /// There was more.
    overflowed: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > RENDERED_BYTES_MAX {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
