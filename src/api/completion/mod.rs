//! `POST /v1/completions`, the request: the text, or the texts, that a model goes on with. It owns the four shapes of
//! `prompt` and the fields that only this route has; what it shares with chat is read by `options`.

pub mod answer;

use serde_json::Value;

use crate::api::error::Invalid;
use crate::api::fields::{Fields, small, whole};
use crate::api::options::{Bounds, Options};
use crate::api::{json, unserved};

/// Most tokens of an answer when the client names no number, as OpenAI documents it for this route.
pub const TOKENS_DEFAULT: u32 = 16;

/// A legal completion request.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// What each answer goes on with; one or more.
    pub prompts: Vec<Prompt>,
    /// Each answer begins with its prompt.
    pub echo: bool,
    /// A vocabulary's beginning-of-text token is put before a text that does not bring it.
    pub add_special_tokens: bool,
    /// The ids of prompts and answers are told.
    pub return_token_ids: bool,
    /// What every request that generates leaves to its client.
    pub options: Options,
}

/// What an answer goes on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text, which is encoded.
    Text(String),
    /// Token ids as they are; at least one.
    Tokens(Vec<u32>),
}

impl CompletionRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// The body is not JSON, or a field is missing, out of range or not served; the error names it.
    pub fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, Invalid> {
        let map = json::parse_object(body)?;
        let names: Vec<String> = map.keys().cloned().collect();
        let mut fields = Fields::new(map, "");
        unserved::refuse(&mut fields, &names)?;
        unserved::neutral(&mut fields, "suffix", &Value::from(""), "write the model's own fill-in-the-middle prompt")?;

        let prompts = prompts(&mut fields)?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        let logprobs = fields.whole("logprobs", 0..=i64::from(bounds.top_logprobs))?.map(small);
        if echo && logprobs.is_some() {
            let message = "`logprobs` cannot be combined with `echo`: those of a prompt's tokens are not computed";
            return Err(Invalid::value("logprobs", message));
        }
        let mut request = Self {
            prompts,
            echo,
            add_special_tokens: fields.flag("add_special_tokens")?.unwrap_or(true),
            return_token_ids: fields.flag("return_token_ids")?.unwrap_or(false),
            options: Options::read(&mut fields, bounds, logprobs, Vec::new())?,
        };
        request.options.close(fields, bounds)?;
        check_answers(&request, bounds.answers)?;
        Ok(request)
    }
}

fn check_answers(request: &CompletionRequest, answers_max: u32) -> Result<(), Invalid> {
    let (prompts, n) = (request.prompts.len(), request.options.n);
    if prompts.saturating_mul(n as usize) <= answers_max as usize {
        return Ok(());
    }
    let message =
        format!("`prompt` holds {prompts} prompts with {n} answers each, more than the {answers_max} that can wait");
    Err(Invalid::value("prompt", message))
}

fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, Invalid> {
    match fields.take("prompt") {
        None => Err(Invalid::value("prompt", "`prompt` is required")),
        Some(Value::String(text)) => Ok(vec![Prompt::Text(text)]),
        Some(Value::Array(list)) if list.is_empty() => Err(Invalid::value("prompt", "`prompt` must not be empty")),
        Some(Value::Array(list)) if list[0].is_number() => Ok(vec![Prompt::Tokens(token_ids("prompt", &list)?)]),
        Some(Value::Array(list)) => list.into_iter().enumerate().map(|(index, item)| prompt(index, item)).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(Invalid::value(
            "prompt",
            "`prompt` must be a string, an array of strings, an array of token ids or an array of such arrays",
        )),
    }
}

/// One of several.
fn prompt(index: usize, item: Value) -> Result<Prompt, Invalid> {
    let path = format!("prompt[{index}]");
    match item {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(list) if !list.is_empty() => Ok(Prompt::Tokens(token_ids(&path, &list)?)),
        Value::Array(_) => Err(Invalid::value(&path, format!("`{path}` must not be empty"))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Err(Invalid::value(&path, format!("`{path}` must be a string or an array of token ids")))
        }
    }
}

/// Token ids, not compared with any model's.
pub(crate) fn token_ids(path: &str, list: &[Value]) -> Result<Vec<u32>, Invalid> {
    let id = |(index, value): (usize, &Value)| {
        whole(value).and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let path = format!("{path}[{index}]");
            Invalid::value(&path, format!("`{path}` must be a token id, which is a whole number from 0 on"))
        })
    };
    list.iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::options::tests::BOUNDS;

    fn parsed(body: Value) -> Result<CompletionRequest, Invalid> {
        CompletionRequest::parse(body.to_string().as_bytes(), &BOUNDS)
    }

    #[test]
    fn each_of_the_four_shapes_of_a_prompt_is_read() {
        let check = |prompt: Value, expected: &[Prompt]| {
            assert_eq!(parsed(json!({ "prompt": prompt })).expect("a legal request").prompts, expected);
        };
        let text = |text: &str| Prompt::Text(text.to_owned());
        check(json!("a"), &[text("a")]);
        check(json!(""), &[text("")]);
        check(json!(["a", "b"]), &[text("a"), text("b")]);
        check(json!([1, 2.0]), &[Prompt::Tokens(vec![1, 2])]);
        check(json!([[1], [2, 3]]), &[Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    }

    #[test]
    fn the_fields_of_this_route_and_of_every_other_are_read() {
        let request = parsed(json!({
            "prompt": "a", "echo": true, "return_token_ids": true, "add_special_tokens": false, "n": 2, "seed": 1,
            "suffix": "", "best_of": 1, "user": "u", "temperature": 0, "tools": [],
        }));
        let request = request.expect("a legal request");
        assert!(request.echo && request.return_token_ids && !request.add_special_tokens);
        assert_eq!((request.options.n, request.options.sampling.temperature), (2, Some(0.0)));
        assert_eq!((request.options.logprobs, request.options.ignored), (None, vec!["tools".to_owned()]));
        let request = parsed(json!({ "prompt": "a", "logprobs": 0 })).expect("a legal request");
        assert_eq!(request.options.logprobs, Some(0));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let check = |body: Value, param: &str| {
            let error = parsed(body).expect_err("an illegal request");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert!(error.message.contains(&format!("`{param}`")), "{}", error.message);
        };
        check(json!({}), "prompt");
        check(json!({ "messages": [] }), "prompt");
        check(json!({ "prompt": 1 }), "prompt");
        check(json!({ "prompt": [] }), "prompt");
        check(json!({ "prompt": [[]] }), "prompt[0]");
        check(json!({ "prompt": ["a", 1] }), "prompt[1]");
        check(json!({ "prompt": ["a", null] }), "prompt[1]");
        check(json!({ "prompt": [1, "a"] }), "prompt[1]");
        check(json!({ "prompt": [-1] }), "prompt[0]");
        check(json!({ "prompt": [["a"]] }), "prompt[0][0]");
        check(json!({ "prompt": [1.5] }), "prompt[0]");
        check(json!({ "prompt": vec!["a"; 10] }), "prompt");
        check(json!({ "prompt": ["a", "b"], "n": 5 }), "prompt");
        check(json!({ "prompt": "a", "logprobs": true }), "logprobs");
        check(json!({ "prompt": "a", "logprobs": 21 }), "logprobs");
        check(json!({ "prompt": "a", "logprobs": 1, "echo": true }), "logprobs");
        check(json!({ "prompt": "a", "echo": 1 }), "echo");
        check(json!({ "prompt": "a", "suffix": "b" }), "suffix");
        check(json!({ "prompt": "a", "best_of": 2 }), "best_of");
        check(json!({ "prompt": "a", "max_tokens": 0 }), "max_tokens");
    }
}
