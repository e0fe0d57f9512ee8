//! `POST /v1/tokenize` and `POST /v1/detokenize`, by vLLM's names: the tokens of a text or of a conversation, and the text
//! of tokens. It owns the fields and their ranges; it refuses to know vocabularies.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::api::chat;
use crate::api::completion::token_ids;
use crate::api::error::Invalid;
use crate::api::fields::Fields;
use crate::api::options::Bounds;
use crate::api::tools::{self, Tools};
use crate::api::{json, messages};

/// What is to be encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// Id or alias of a model.
    pub model: Option<String>,
    /// What it is.
    pub subject: Subject,
    /// A vocabulary's beginning-of-text token is put before a text that does not bring it.
    pub add_special_tokens: bool,
    /// Each token's text is told, too.
    pub return_token_strs: bool,
    /// Fields that had no effect.
    pub ignored: Vec<String>,
}

/// A text, or a conversation that a chat template makes one of.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// The field `prompt`.
    Text(String),
    /// The field `messages`, and what goes with it.
    Chat {
        /// The conversation, checked and otherwise as it came.
        messages: Vec<Value>,
        /// Tools that may be called.
        tools: Option<Tools>,
        /// Further variables for the template.
        template_arguments: Map<String, Value>,
        /// What opens the assistant's answer is part of it.
        add_generation_prompt: bool,
    },
}

/// Tokens whose text is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// Id or alias of a model.
    pub model: Option<String>,
    /// The tokens; there may be none.
    pub tokens: Vec<u32>,
    /// Fields that had no effect.
    pub ignored: Vec<String>,
}

/// The answer to [`TokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tokenized {
    /// How many tokens there are.
    pub count: usize,
    /// Most tokens of prompt and answer together.
    pub max_model_len: u32,
    /// Their ids.
    pub tokens: Vec<u32>,
    /// Their texts, if asked for; bytes that are no text are shown as U+FFFD.
    pub token_strs: Option<Vec<String>>,
}

/// The answer to [`DetokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Detokenized {
    /// The text, control tokens among it.
    pub prompt: String,
}

impl TokenizeRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// The body is not JSON, or a field is missing, out of range or not served; the error names it.
    pub fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, Invalid> {
        let mut fields = Fields::new(json::parse_object(body)?, "");
        let mut ignored = Vec::new();
        for (name, instead) in [
            ("chat_template", "the model's own is used"),
            ("continue_final_message", "send `add_generation_prompt: false`"),
        ] {
            if fields.take(name).is_some_and(|value| value != Value::Bool(false)) {
                return Err(Invalid::unsupported(name, format!("`{name}` is not supported: {instead}")));
            }
        }
        let subject = match (fields.text("prompt")?, fields.list("messages")?) {
            (Some(text), None) => Subject::Text(text),
            (None, Some(list)) => Subject::Chat {
                messages: messages::check(list, bounds.messages, &mut ignored)?,
                tools: tools::read(&mut fields, bounds.tools)?,
                template_arguments: chat::template_arguments(&mut fields)?,
                add_generation_prompt: fields.flag("add_generation_prompt")?.unwrap_or(true),
            },
            (None, None) => return Err(Invalid::value("prompt", "`prompt` or `messages` is required")),
            (Some(_), Some(_)) => {
                return Err(Invalid::value("prompt", "`prompt` and `messages` cannot be combined: send one of them"));
            }
        };
        let request = Self {
            model: fields.text("model")?,
            subject,
            add_special_tokens: fields.flag("add_special_tokens")?.unwrap_or(true),
            return_token_strs: fields.flag("return_token_strs")?.unwrap_or(false),
            ignored,
        };
        let ignored = fields.close(request.ignored, bounds.strict)?;
        Ok(Self { ignored, ..request })
    }
}

impl DetokenizeRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// The body is not JSON, or a field is missing, out of range or not served; the error names it.
    pub fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, Invalid> {
        let mut fields = Fields::new(json::parse_object(body)?, "");
        let model = fields.text("model")?;
        let Some(list) = fields.list("tokens")? else {
            return Err(Invalid::value("tokens", "`tokens` is required"));
        };
        let tokens = token_ids("tokens", &list)?;
        Ok(Self { model, tokens, ignored: fields.close(Vec::new(), bounds.strict)? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::options::tests::BOUNDS;

    fn parsed(body: Value) -> Result<TokenizeRequest, Invalid> {
        TokenizeRequest::parse(body.to_string().as_bytes(), &BOUNDS)
    }

    #[test]
    fn a_text_or_a_conversation_is_read() {
        let request = parsed(json!({ "prompt": "a", "return_token_strs": true, "zebra": 1 })).expect("a legal request");
        assert_eq!(request.subject, Subject::Text("a".to_owned()));
        assert!(request.add_special_tokens && request.return_token_strs);
        assert_eq!(request.ignored, ["zebra"]);
        let message = json!({ "role": "user", "content": "hi" });
        let body = json!({ "messages": [message], "add_generation_prompt": false, "continue_final_message": false });
        let Subject::Chat { messages, tools, add_generation_prompt, .. } = parsed(body).expect("legal").subject else {
            panic!("a conversation")
        };
        assert_eq!((messages, tools, add_generation_prompt), (vec![message], None, false));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let check = |body: Value, param: &str| {
            let error = parsed(body).expect_err("an illegal request");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        };
        check(json!({}), "prompt");
        check(json!({ "prompt": 1 }), "prompt");
        check(json!({ "prompt": "a", "messages": [] }), "prompt");
        check(json!({ "messages": [] }), "messages");
        check(json!({ "prompt": "a", "chat_template": "x" }), "chat_template");
        check(json!({ "prompt": "a", "continue_final_message": true }), "continue_final_message");
        check(json!({ "prompt": "a", "add_special_tokens": 1 }), "add_special_tokens");
        let strict = Bounds { strict: true, ..BOUNDS };
        let error = TokenizeRequest::parse(br#"{"prompt":"a","zebra":1}"#, &strict).expect_err("strict");
        assert_eq!(error.param.as_deref(), Some("zebra"));
    }

    #[test]
    fn tokens_are_whole_numbers_from_zero_on() {
        let parsed = |body: Value| DetokenizeRequest::parse(body.to_string().as_bytes(), &BOUNDS);
        assert_eq!(parsed(json!({ "tokens": [1, 2] })).expect("a legal request").tokens, [1, 2]);
        assert!(parsed(json!({ "tokens": [] })).expect("a legal request").tokens.is_empty());
        for (body, param) in [(json!({}), "tokens"), (json!({ "tokens": [1, -1] }), "tokens[1]")] {
            assert_eq!(parsed(body).expect_err("an illegal request").param.as_deref(), Some(param));
        }
    }
}
