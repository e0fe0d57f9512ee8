//! What every request that generates leaves to its client, whatever it is made of: how tokens are drawn, when an answer
//! ends, what it must look like, how many there are and how they are delivered. It owns these fields' names and ranges; it
//! refuses to know defaults, which belong to the loaded model, and what the prompt is.

use std::time::Duration;

use serde_json::Value;

use crate::api::error::Invalid;
use crate::api::fields::{Fields, small, whole};
use crate::api::form::{self, Restriction};

/// Bytes of one stop string; each streamed token is searched for it.
pub(crate) const STOP_BYTES_MAX: usize = 1024;
/// Entries of `stop_token_ids`.
pub(crate) const STOP_TOKENS_MAX: usize = 64;
/// Bytes of `prompt_cache_key`.
pub(crate) const CACHE_KEY_BYTES_MAX: usize = 256;
/// The longest `timeout` that makes sense to name; the server's own limit is usually lower.
pub(crate) const TIMEOUT_SECONDS_MAX: f64 = 86_400.0;
/// The shortest.
pub(crate) const TIMEOUT_SECONDS_MIN: f64 = 0.001;

/// What the server accepts, passed in because this module does not know our settings.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Answers to one prompt.
    pub n: u32,
    /// Answers to all prompts of a request.
    pub answers: u32,
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

/// The choices of a legal request. `None` means that the client left the choice to us.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Id or alias of a model.
    pub model: Option<String>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Most tokens to generate.
    pub tokens_max: Option<u32>,
    /// Tokens before which the answer does not end by itself.
    pub tokens_min: u32,
    /// Log probabilities are returned, and those of so many alternatives to each token.
    pub logprobs: Option<u32>,
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
    /// What of earlier prompts this one may begin with.
    pub prompt_cache: PromptCache,
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

/// Which of the same client's earlier prompts one may begin with, so that less is evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptCache {
    /// Those without a key.
    Shared,
    /// Those with this key.
    Keyed(String),
    /// None, and none later may begin with it.
    Off,
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

impl Options {
    /// Reads them. How log probabilities are asked for differs between the APIs, so what they come to is given.
    pub(crate) fn read(
        fields: &mut Fields,
        bounds: &Bounds,
        logprobs: Option<u32>,
        mut ignored: Vec<String>,
    ) -> Result<Self, Invalid> {
        Ok(Self {
            n: fields.whole("n", 1..=i64::from(bounds.n))?.map_or(1, small),
            model: fields.text("model")?,
            sampling: sampling(fields, bounds)?,
            tokens_max: tokens_max(fields)?,
            tokens_min: fields.whole("min_tokens", 0..=i64::from(u32::MAX))?.map_or(0, small),
            logprobs,
            restriction: form::read(fields)?,
            stop: stop(fields, bounds)?,
            stop_token_ids: stop_token_ids(fields)?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            delivery: delivery(fields, &mut ignored)?,
            timeout: timeout(fields)?,
            prompt_cache: prompt_cache(fields)?,
            ignored,
        })
    }

    /// Notes what nobody has read.
    ///
    /// # Errors
    /// Something had no effect, and the server is strict.
    pub(crate) fn close(&mut self, mut fields: Fields, bounds: &Bounds) -> Result<(), Invalid> {
        for name in ["user", "metadata", "store", "service_tier"] {
            // Accepted for the SDKs' sake and recorded nowhere.
            drop(fields.take(name));
        }
        self.ignored = fields.close(std::mem::take(&mut self.ignored), bounds.strict)?;
        Ok(())
    }
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
    let seconds = fields.number("timeout", TIMEOUT_SECONDS_MIN..=TIMEOUT_SECONDS_MAX)?;
    Ok(seconds.map(Duration::from_secs_f64))
}

fn prompt_cache(fields: &mut Fields) -> Result<PromptCache, Invalid> {
    const NAME: &str = "prompt_cache_key";
    let wanted = fields.flag("cache_prompt")?.unwrap_or(true);
    match fields.text(NAME)? {
        Some(key) if key.len() > CACHE_KEY_BYTES_MAX => {
            Err(Invalid::value(NAME, format!("`{NAME}` must be a string of up to {CACHE_KEY_BYTES_MAX} bytes")))
        }
        Some(_) | None if !wanted => Ok(PromptCache::Off),
        Some(key) if !key.is_empty() => Ok(PromptCache::Keyed(key)),
        Some(_) | None => Ok(PromptCache::Shared),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// Small, so that a test can be beyond them.
    pub(in crate::api) const BOUNDS: Bounds = Bounds {
        n: 8,
        answers: 9,
        stop_strings: 4,
        logit_bias: 3,
        messages: 3,
        tools: 2,
        top_logprobs: 20,
        strict: false,
    };

    #[test]
    fn a_prompt_cache_is_shared_keyed_or_off() {
        let given = |body: Value| {
            let Value::Object(map) = body else { panic!("a body is an object") };
            prompt_cache(&mut Fields::new(map, ""))
        };
        let key = |key: &str| Ok(PromptCache::Keyed(key.to_owned()));
        assert_eq!(given(json!({})), Ok(PromptCache::Shared));
        assert_eq!(given(json!({ "prompt_cache_key": "", "cache_prompt": true })), Ok(PromptCache::Shared));
        assert_eq!(given(json!({ "prompt_cache_key": "a" })), key("a"));
        assert_eq!(given(json!({ "prompt_cache_key": "a", "cache_prompt": false })), Ok(PromptCache::Off));
        let long = "k".repeat(CACHE_KEY_BYTES_MAX + 1);
        for body in [json!({ "prompt_cache_key": long }), json!({ "prompt_cache_key": 1 })] {
            let error = given(body).expect_err("no key");
            assert_eq!(error.param.as_deref(), Some("prompt_cache_key"));
        }
        assert!(given(json!({ "cache_prompt": "no" })).is_err());
    }
}
