//! `POST /v1/chat/completions`, the request: every field read, checked against its range and turned into plain values.
//! It owns which fields exist and which had no effect; it refuses to know defaults, which belong to the loaded model.

use serde_json::{Map, Value};

use crate::api::error::Invalid;
use crate::api::fields::{Fields, small};
use crate::api::options::{Bounds, Options};
use crate::api::tools::{self, Tools};
use crate::api::{json, messages, unserved};

/// A legal chat request. `None` means that the client left the choice to us.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation, checked and otherwise as it came.
    pub messages: Vec<Value>,
    /// Tools that may be called; absent with `tool_choice: "none"`.
    pub tools: Option<Tools>,
    /// Further variables for the template.
    pub template_arguments: Map<String, Value>,
    /// How long the model may think before it answers.
    pub thinking_budget: Option<ThinkingBudget>,
    /// What every request that generates leaves to its client.
    pub options: Options,
}

/// How long the model may think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// The client's name for it.
    pub field: &'static str,
    /// Most tokens of thoughts.
    pub tokens: u32,
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// The body is not JSON, or a field is missing, out of range or not served; the error names it.
    pub fn parse(body: &[u8], bounds: &Bounds) -> Result<Self, Invalid> {
        let map = json::parse_object(body)?;
        let names: Vec<String> = map.keys().cloned().collect();
        let mut fields = Fields::new(map, "");
        unserved::refuse(&mut fields, &names)?;

        let mut ignored = Vec::new();
        let Some(list) = fields.list("messages")? else {
            return Err(Invalid::value("messages", "`messages` is required"));
        };
        let messages = messages::check(list, bounds.messages, &mut ignored)?;
        let logprobs = logprobs(&mut fields, bounds)?;
        let mut request = Self {
            messages,
            tools: tools::read(&mut fields, bounds.tools)?,
            template_arguments: template_arguments(&mut fields)?,
            thinking_budget: thinking_budget(&mut fields)?,
            options: Options::read(&mut fields, bounds, logprobs, ignored)?,
        };
        request.options.close(fields, bounds)?;
        Ok(request)
    }
}

fn logprobs(fields: &mut Fields, bounds: &Bounds) -> Result<Option<u32>, Invalid> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0..=i64::from(bounds.top_logprobs))?.map_or(0, small);
    if top > 0 && !wanted {
        return Err(Invalid::value("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
    }
    Ok(wanted.then_some(top))
}

/// One of the names that servers have for it; -1 is without bound.
fn thinking_budget(fields: &mut Fields) -> Result<Option<ThinkingBudget>, Invalid> {
    const NAMES: [&str; 3] = ["thinking_budget", "thinking_token_budget", "reasoning_max_tokens"];
    let mut found: Option<(&'static str, i64)> = None;
    for field in NAMES {
        let Some(tokens) = fields.whole(field, -1..=i64::from(u32::MAX))? else { continue };
        match found {
            Some((other, before)) if before != tokens => {
                let message = format!("`{field}` is {tokens} and `{other}` is {before}: send one of them");
                return Err(Invalid::value(field, message));
            }
            Some(_) => {}
            None => found = Some((field, tokens)),
        }
    }
    Ok(found.filter(|(_, tokens)| *tokens >= 0).map(|(field, tokens)| ThinkingBudget { field, tokens: small(tokens) }))
}

/// Variables that a request sets for the template, `reasoning_effort` among them.
pub(crate) fn template_arguments(fields: &mut Fields) -> Result<Map<String, Value>, Invalid> {
    const NAME: &str = "chat_template_kwargs";
    let mut arguments = fields.object(NAME)?.unwrap_or_default();
    if let Some(name) = ["messages", "tools"].iter().find(|name| arguments.contains_key(**name)) {
        return Err(Invalid::value(NAME, format!("`{NAME}` must not replace `{name}`")));
    }
    if let Some(effort) = fields.text("reasoning_effort")? {
        if effort == "none" {
            // What templates that can do without thinking ask for.
            arguments.entry("enable_thinking").or_insert(Value::Bool(false));
        }
        arguments.entry("reasoning_effort").or_insert(Value::String(effort));
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::api::options::tests::BOUNDS;
    use crate::api::options::{Delivery, Sampling};

    fn body(extra: Value) -> Vec<u8> {
        let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
        let Value::Object(extra) = extra else { panic!("extra fields are an object") };
        body.as_object_mut().expect("written as an object above").extend(extra);
        body.to_string().into_bytes()
    }

    fn accepted(extra: Value) -> ChatRequest {
        ChatRequest::parse(&body(extra), &BOUNDS).expect("a legal request")
    }

    #[test]
    fn the_least_request_leaves_every_choice_to_us() {
        let ChatRequest { options, tools, .. } = accepted(json!({}));
        assert_eq!(options.sampling, Sampling::default());
        assert_eq!((options.n, options.delivery, options.tokens_max), (1, Delivery::Whole, None));
        assert_eq!((options.model, options.timeout, tools), (None, None, None));
        assert!(options.stop.is_empty() && options.ignored.is_empty() && !options.ignore_eos);
    }

    #[test]
    fn every_served_field_is_read() {
        let request = accepted(json!({
            "model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
            "presence_penalty": -1, "frequency_penalty": 2, "logit_bias": { "5": -100 }, "seed": -1, "stop": ["a", "b"],
            "stream": true, "stream_options": { "include_usage": true, "other": 1 }, "n": 2, "max_tokens": 7,
            "max_completion_tokens": 7.0, "stop_token_ids": [3], "ignore_eos": true, "timeout": 1.5,
            "chat_template_kwargs": { "enable_thinking": false }, "reasoning_effort": "low", "user": "u", "store": false,
            "tools": [{ "type": "function", "function": { "name": "f" } }], "tool_choice": "auto",
            "response_format": { "type": "text" }, "logprobs": true, "top_logprobs": 2, "typical_p": 0.7, "min_tokens": 3, "best_of": 1, "modalities": ["text"],
            "thinking_token_budget": 9, "reasoning_max_tokens": 9
        }));
        let options = request.options;
        let sampling = &options.sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.5), Some(0.9), Some(40)));
        assert_eq!((sampling.min_p, sampling.repetition_penalty), (Some(0.1), Some(1.1)));
        assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (Some(-1.0), Some(2.0)));
        assert_eq!((sampling.logit_bias.as_slice(), sampling.seed), ([(5, -100.0)].as_slice(), Some(u64::MAX)));
        assert_eq!((options.tokens_max, options.n, options.ignore_eos), (Some(7), 2, true));
        assert_eq!((options.tokens_min, options.logprobs, sampling.typical_p), (3, Some(2), Some(0.7)));
        assert_eq!((options.stop, options.stop_token_ids), (vec!["a".to_owned(), "b".to_owned()], vec![3]));
        assert_eq!(options.delivery, Delivery::Stream { include_usage: true });
        assert_eq!(options.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(
            Value::Object(request.template_arguments),
            json!({ "enable_thinking": false, "reasoning_effort": "low" })
        );
        assert_eq!(request.tools.map(|tools| tools.list.len()), Some(1));
        assert_eq!(request.thinking_budget, Some(ThinkingBudget { field: "thinking_token_budget", tokens: 9 }));
        assert_eq!(options.ignored, ["stream_options.other"]);
    }

    #[test]
    fn null_is_absent_for_every_optional_field() {
        let names = [
            "model",
            "temperature",
            "top_p",
            "top_k",
            "logit_bias",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "n",
            "tools",
            "tool_choice",
            "max_tokens",
            "max_completion_tokens",
            "response_format",
            "logprobs",
            "top_logprobs",
            "functions",
            "guided_json",
            "timeout",
            "unheard_of",
            "min_tokens",
            "user",
        ];
        let nulls: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
        assert_eq!(accepted(Value::Object(nulls)), accepted(json!({})));
    }

    #[test]
    fn what_is_out_of_range_or_not_served_is_a_mistake_naming_the_field() {
        let check = |extra: Value| {
            let name = extra.as_object().and_then(|map| map.keys().next_back()).cloned().expect("one field");
            let error = ChatRequest::parse(&body(extra), &BOUNDS).expect_err("an illegal request");
            let param = error.param.expect("the field is named");
            assert!(param.starts_with(&name), "{name}: {param}");
            assert!(error.message.contains(&name), "{name}: {}", error.message);
        };
        let cases = json!([
            { "temperature": 2.1 }, { "temperature": "1" }, { "top_p": -0.1 }, { "top_k": 1.5 }, { "min_p": 2 },
            { "repetition_penalty": 0 }, { "presence_penalty": 3 }, { "frequency_penalty": -3 }, { "seed": 0.5 },
            { "logit_bias": { "x": 1 } }, { "logit_bias": { "1": 101 } }, { "logit_bias": { "1": 0, "2": 0, "3": 0, "4": 0 } },
            { "stop": 1 }, { "stop": [""] }, { "stop": ["a", "b", "c", "d", "e"] }, { "stop_token_ids": [-1] },
            { "n": 0 }, { "n": 1_000_000 }, { "max_tokens": 0 }, { "max_completion_tokens": 1, "max_tokens": 2 },
            { "stream": 1 }, { "stream_options": {} }, { "timeout": 0 }, { "ignore_eos": 1 }, { "messages": [] },
            { "messages": [1] }, { "tools": [{}] }, { "tool_choice": "required" }, { "tool_choice": { "type": "function" } },
            { "tool_choice": "maybe" }, { "chat_template_kwargs": { "messages": [] } }, { "functions": [] },
            { "function_call": "auto" }, { "audio": {} }, { "modalities": ["text", "audio"] }, { "prediction": {} },
            { "web_search_options": {} }, { "best_of": 2 }, { "bad_words": ["a"] }, { "cache_salt": "x" },
            { "prompt_embeds": "" }, { "guided_json": {} }, { "logprobs": 1 }, { "top_logprobs": 3 }, { "min_tokens": -1 },
            { "logprobs": true, "top_logprobs": 21 }, { "typical_p": 1.5 }, { "choice": [] }, { "response_format": { "type": "xml" } },
            { "structured_outputs": {} }, { "thinking_budget": -2 }, { "thinking_budget": 1, "reasoning_max_tokens": 2 }, { "model": 5 }
        ]);
        let Value::Array(cases) = cases else { unreachable!("written as an array above") };
        for case in cases {
            check(case);
        }
        let error = ChatRequest::parse(b"{}", &BOUNDS).expect_err("no messages");
        assert_eq!(error.param.as_deref(), Some("messages"));
    }

    #[test]
    fn a_field_without_effect_is_listed_or_with_strict_refused() {
        let extra = json!({ "parallel_tool_calls": true, "zebra": 1, "user": "u" });
        assert_eq!(accepted(extra.clone()).options.ignored, ["parallel_tool_calls", "zebra"]);
        let strict = Bounds { strict: true, ..BOUNDS };
        let error = ChatRequest::parse(&body(extra), &strict).expect_err("strict");
        assert_eq!(error.param.as_deref(), Some("parallel_tool_calls"));
    }
}
