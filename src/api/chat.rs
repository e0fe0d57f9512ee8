//! `POST /v1/chat/completions`, the request: every field read, checked against its range and turned into plain values.
//! It owns which fields exist and which had no effect; it refuses to know defaults, which belong to the loaded model.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::api::error::Invalid;
use crate::api::fields::{Fields, whole};
use crate::api::form::{self, Restriction};
use crate::api::tools::{self, Tools};
use crate::api::{json, messages, unserved};

/// Bytes of one stop string; each streamed token is searched for it.
const STOP_BYTES_MAX: usize = 1024;
/// Entries of `stop_token_ids`.
const STOP_TOKENS_MAX: usize = 64;
/// The longest `timeout` that makes sense to name; the server's own limit is usually lower.
const TIMEOUT_SECONDS_MAX: f64 = 86_400.0;

/// What the server accepts, passed in because this module does not know our settings.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Answers per request.
    pub n: u32,
    /// Stop strings per request.
    pub stop_strings: usize,
    /// Entries of `logit_bias`.
    pub logit_bias: usize,
    /// Messages per request.
    pub messages: usize,
    /// Tools per request.
    pub tools: usize,
    /// Alternatives to each token whose log probabilities may be asked for.
    pub top_logprobs: u32,
    /// A field without effect is an error.
    pub strict: bool,
}

/// A legal chat request. `None` means that the client left the choice to us.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// Id or alias of a model.
    pub model: Option<String>,
    /// The conversation, checked and otherwise as it came.
    pub messages: Vec<Value>,
    /// Tools that may be called; absent with `tool_choice: "none"`.
    pub tools: Option<Tools>,
    /// Further variables for the template.
    pub template_arguments: Map<String, Value>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Most tokens to generate.
    pub tokens_max: Option<u32>,
    /// Tokens before which the answer does not end by itself.
    pub tokens_min: u32,
    /// Log probabilities are returned, and those of so many alternatives to each token.
    pub logprobs: Option<u32>,
    /// How long the model may think before it answers.
    pub thinking_budget: Option<ThinkingBudget>,
    /// What the answer must look like.
    pub restriction: Option<Restriction>,
    /// Strings that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Token ids that end the answer, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// The model's own end-of-text tokens do not end the answer.
    pub ignore_eos: bool,
    /// Answers to generate.
    pub n: u32,
    /// How to deliver.
    pub delivery: Delivery,
    /// Longest time the whole request may take.
    pub timeout: Option<Duration>,
    /// Fields that had no effect, in the client's order.
    pub ignored: Vec<String>,
}

/// The sampling fields, each within its range.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)] // The names are OpenAI's and vLLM's own.
pub struct Sampling {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    pub min_p: Option<f64>,
    pub typical_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub logit_bias: Vec<(u32, f64)>,
    pub seed: Option<u64>,
}

/// How long the model may think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// The client's name for it.
    pub field: &'static str,
    /// Most tokens of thoughts.
    pub tokens: u32,
}

/// How the answer is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// One JSON body.
    Whole,
    /// Server-sent events.
    Stream {
        /// A last chunk carries the token counts.
        include_usage: bool,
    },
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
        let n = fields.whole("n", 1..=i64::from(bounds.n))?.map_or(1, small);
        let mut request = Self {
            model: fields.text("model")?,
            messages,
            tools: tools::read(&mut fields, bounds.tools)?,
            template_arguments: template_arguments(&mut fields)?,
            sampling: sampling(&mut fields, bounds)?,
            tokens_max: tokens_max(&mut fields)?,
            tokens_min: fields.whole("min_tokens", 0..=i64::from(u32::MAX))?.map_or(0, small),
            logprobs: logprobs(&mut fields, bounds)?,
            thinking_budget: thinking_budget(&mut fields)?,
            restriction: form::read(&mut fields)?,
            stop: stop(&mut fields, bounds)?,
            stop_token_ids: stop_token_ids(&mut fields)?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            n,
            delivery: delivery(&mut fields, &mut ignored)?,
            timeout: timeout(&mut fields)?,
            ignored,
        };
        for name in ["user", "metadata", "store", "service_tier"] {
            // Accepted for the SDKs' sake and recorded nowhere.
            drop(fields.take(name));
        }
        request.ignored.extend(fields.rest());
        match request.ignored.first() {
            Some(name) if bounds.strict => {
                let shown: String = name.chars().take(64).collect();
                let message = format!("{shown:?} has no effect here, and this server was started with --strict");
                Err(Invalid::unsupported(&shown, message))
            }
            Some(_) | None => Ok(request),
        }
    }
}

/// A number that its range has already bounded to 32 bits.
fn small(number: i64) -> u32 {
    u32::try_from(number).expect("the range given to `whole` lies within u32")
}

fn sampling(fields: &mut Fields, bounds: &Bounds) -> Result<Sampling, Invalid> {
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?,
        top_p: fields.number("top_p", 0.0..=1.0)?,
        // -1 is vLLM's spelling of "all".
        top_k: fields.whole("top_k", -1..=i64::from(u32::MAX))?.map(|top_k| small(top_k.max(0))),
        min_p: fields.number("min_p", 0.0..=1.0)?,
        typical_p: fields.number("typical_p", 0.0..=1.0)?,
        repetition_penalty: fields.number("repetition_penalty", 0.01..=10.0)?,
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?,
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?,
        logit_bias: logit_bias(fields, bounds)?,
        seed: fields.whole("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
    })
}

fn logit_bias(fields: &mut Fields, bounds: &Bounds) -> Result<Vec<(u32, f64)>, Invalid> {
    const NAME: &str = "logit_bias";
    let Some(map) = fields.object(NAME)? else { return Ok(Vec::new()) };
    if map.len() > bounds.logit_bias {
        let message = format!("`{NAME}` holds {} entries, more than the limit of {}", map.len(), bounds.logit_bias);
        return Err(Invalid::value(NAME, message));
    }
    map.into_iter()
        .map(|(id, bias)| {
            let id = id.parse().map_err(|_| Invalid::value(NAME, format!("`{NAME}` keys must be token ids")))?;
            let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
            let bias = bias.ok_or_else(|| {
                Invalid::value(NAME, format!("`{NAME}` of token {id} must be a number from -100 to 100"))
            })?;
            Ok((id, bias))
        })
        .collect()
}

fn logprobs(fields: &mut Fields, bounds: &Bounds) -> Result<Option<u32>, Invalid> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.whole("top_logprobs", 0..=i64::from(bounds.top_logprobs))?.map_or(0, small);
    if top > 0 && !wanted {
        return Err(Invalid::value("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
    }
    Ok(wanted.then_some(top))
}

fn tokens_max(fields: &mut Fields) -> Result<Option<u32>, Invalid> {
    let range = || 1..=i64::from(u32::MAX);
    let new = fields.whole("max_completion_tokens", range())?;
    let old = fields.whole("max_tokens", range())?;
    match (new, old) {
        (Some(new), Some(old)) if new != old => Err(Invalid::value(
            "max_tokens",
            format!("`max_tokens` is {old} and `max_completion_tokens` is {new}: send one of them"),
        )),
        (new, old) => Ok(new.or(old).map(small)),
    }
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

fn stop(fields: &mut Fields, bounds: &Bounds) -> Result<Vec<String>, Invalid> {
    let expected = || {
        let max = bounds.stop_strings;
        Invalid::value("stop", format!("`stop` must be a string or up to {max} strings of 1 to {STOP_BYTES_MAX} bytes"))
    };
    let stops = match fields.take("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|stop| match stop {
                Value::String(stop) => Ok(stop),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err(expected()),
            })
            .collect::<Result<_, _>>()?,
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return Err(expected()),
    };
    let legal =
        stops.len() <= bounds.stop_strings && stops.iter().all(|stop| !stop.is_empty() && stop.len() <= STOP_BYTES_MAX);
    if legal { Ok(stops) } else { Err(expected()) }
}

fn stop_token_ids(fields: &mut Fields) -> Result<Vec<u32>, Invalid> {
    const NAME: &str = "stop_token_ids";
    let list = fields.list(NAME)?.unwrap_or_default();
    let expected = || Invalid::value(NAME, format!("`{NAME}` must be up to {STOP_TOKENS_MAX} token ids"));
    if list.len() > STOP_TOKENS_MAX {
        return Err(expected());
    }
    list.iter().map(|id| whole(id).and_then(|id| u32::try_from(id).ok()).ok_or_else(expected)).collect()
}

fn delivery(fields: &mut Fields, ignored: &mut Vec<String>) -> Result<Delivery, Invalid> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let Some(options) = fields.object("stream_options")? else {
        return Ok(if stream { Delivery::Stream { include_usage: false } } else { Delivery::Whole });
    };
    if !stream {
        return Err(Invalid::value("stream_options", "`stream_options` needs `stream: true`"));
    }
    let mut options = Fields::new(options, "stream_options.");
    let include_usage = options.flag("include_usage")?.unwrap_or(false);
    ignored.extend(options.rest());
    Ok(Delivery::Stream { include_usage })
}

fn timeout(fields: &mut Fields) -> Result<Option<Duration>, Invalid> {
    let seconds = fields.number("timeout", 0.001..=TIMEOUT_SECONDS_MAX)?;
    Ok(seconds.map(Duration::from_secs_f64))
}

fn template_arguments(fields: &mut Fields) -> Result<Map<String, Value>, Invalid> {
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
    use serde_json::json;

    use super::*;

    const BOUNDS: Bounds =
        Bounds { n: 8, stop_strings: 4, logit_bias: 3, messages: 3, tools: 2, top_logprobs: 20, strict: false };

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
        let request = accepted(json!({}));
        assert_eq!(request.sampling, Sampling::default());
        assert_eq!((request.n, request.delivery, request.tokens_max), (1, Delivery::Whole, None));
        assert_eq!((request.model, request.timeout, request.tools), (None, None, None));
        assert!(request.stop.is_empty() && request.ignored.is_empty() && !request.ignore_eos);
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
        let sampling = &request.sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (Some(0.5), Some(0.9), Some(40)));
        assert_eq!((sampling.min_p, sampling.repetition_penalty), (Some(0.1), Some(1.1)));
        assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (Some(-1.0), Some(2.0)));
        assert_eq!((sampling.logit_bias.as_slice(), sampling.seed), ([(5, -100.0)].as_slice(), Some(u64::MAX)));
        assert_eq!((request.tokens_max, request.n, request.ignore_eos), (Some(7), 2, true));
        assert_eq!((request.tokens_min, request.logprobs, sampling.typical_p), (3, Some(2), Some(0.7)));
        assert_eq!((request.stop, request.stop_token_ids), (vec!["a".to_owned(), "b".to_owned()], vec![3]));
        assert_eq!(request.delivery, Delivery::Stream { include_usage: true });
        assert_eq!(request.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(
            Value::Object(request.template_arguments),
            json!({ "enable_thinking": false, "reasoning_effort": "low" })
        );
        assert_eq!(request.tools.map(|tools| tools.list.len()), Some(1));
        assert_eq!(request.thinking_budget, Some(ThinkingBudget { field: "thinking_token_budget", tokens: 9 }));
        assert_eq!(request.ignored, ["stream_options.other"]);
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
        assert_eq!(accepted(extra.clone()).ignored, ["parallel_tool_calls", "zebra"]);
        let strict = Bounds { strict: true, ..BOUNDS };
        let error = ChatRequest::parse(&body(extra), &strict).expect_err("strict");
        assert_eq!(error.param.as_deref(), Some("parallel_tool_calls"));
    }
}
