//! What configuration files say besides shapes: where a generation stops, how long it may be, how it samples. Wrong
//! types and impossible numbers are refused by key; absent and null mean the same.

use serde_json::Value;

use crate::model::weights::error::Flaw;

/// Most stop tokens that are believed.
const STOP_TOKENS_MAX: usize = 64;

/// Sampling where a request says nothing, from `generation_config.json`; `None` where that says nothing either.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GenerationDefaults {
    /// 0 to 2.
    pub temperature: Option<f32>,
    /// Above 0, up to 1.
    pub top_p: Option<f32>,
    /// 0 keeps all.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// Above 0.
    pub repetition_penalty: Option<f32>,
}

impl GenerationDefaults {
    pub(super) fn read(generation: &Value) -> Result<Self, Flaw> {
        let number = |key, expected, accepts: fn(f64) -> bool| number(generation, key, expected, accepts);
        let top_k = present(generation, "top_k").map(|value| {
            let found = value.as_u64().and_then(|k| u32::try_from(k).ok());
            found.ok_or_else(|| flaw("top_k", "an integer from 0 to 4294967295", value))
        });
        Ok(Self {
            temperature: number("temperature", "a number from 0 to 2", |n| (0.0..=2.0).contains(&n))?,
            top_p: number("top_p", "a number above 0 and up to 1", |n| n > 0.0 && n <= 1.0)?,
            top_k: top_k.transpose()?,
            min_p: number("min_p", "a number from 0 to 1", |n| (0.0..=1.0).contains(&n))?,
            repetition_penalty: number("repetition_penalty", "a number above 0", |n| {
                n > 0.0 && n < f64::from(f32::MAX)
            })?,
        })
    }
}

fn number(object: &Value, key: &str, expected: &str, accepts: fn(f64) -> bool) -> Result<Option<f32>, Flaw> {
    let Some(value) = present(object, key) else { return Ok(None) };
    let found = value.as_f64().filter(|number| accepts(*number));
    found.map(|number| Some(number as f32)).ok_or_else(|| flaw(key, expected, value))
}

/// `eos_token_id` of a config or generation config: a number, a list, or nothing. Checkpoints that also see keep the
/// text model's configuration in `text_config`.
pub(super) fn stop_tokens(config: &Value) -> Result<Vec<u32>, Flaw> {
    let mut tokens = Vec::new();
    for object in [Some(config), config.get("text_config")].into_iter().flatten() {
        let Some(value) = present(object, "eos_token_id") else { continue };
        let ids = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
        if ids.len() > STOP_TOKENS_MAX {
            let what = "key \"eos_token_id\", number of items".to_owned();
            return Err(Flaw::TooMany { what, max: STOP_TOKENS_MAX as u64, found: ids.len() as u64 });
        }
        for id in ids {
            let found = id.as_u64().and_then(|id| u32::try_from(id).ok());
            tokens.push(found.ok_or_else(|| flaw("eos_token_id", "a token id or a list of them", value))?);
        }
    }
    Ok(tokens)
}

/// `max_position_embeddings`, which every configuration has to name.
pub(super) fn context_tokens(config: &Value) -> Result<u32, Flaw> {
    let key = "max_position_embeddings";
    let nested = || config.get("text_config").and_then(|text| present(text, key));
    let value = present(config, key).or_else(nested).ok_or_else(|| Flaw::missing(format_args!("key {key:?}")))?;
    let found = value.as_u64().and_then(|tokens| u32::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
    found.ok_or_else(|| flaw(key, "an integer above 0", value))
}

fn present<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn flaw(key: &str, expected: &str, found: &Value) -> Flaw {
    Flaw::unexpected(format_args!("key {key:?}"), expected, found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stop_tokens_are_a_number_a_list_or_nothing_at_both_levels() {
        for (config, expected) in [
            (json!({}), vec![]),
            (json!({ "eos_token_id": null }), vec![]),
            (json!({ "eos_token_id": 2 }), vec![2]),
            (json!({ "eos_token_id": [7, 2] }), vec![7, 2]),
            (json!({ "eos_token_id": 2, "text_config": { "eos_token_id": [5] } }), vec![2, 5]),
        ] {
            assert_eq!(stop_tokens(&config), Ok(expected), "{config}");
        }
        for config in [json!({ "eos_token_id": -1 }), json!({ "eos_token_id": "x" }), json!({ "eos_token_id": [[1]] })]
        {
            let refusal = stop_tokens(&config).expect_err("no id").to_string();
            assert!(refusal.starts_with("key \"eos_token_id\": expected a token id"), "{refusal}");
        }
        assert!(stop_tokens(&json!({ "eos_token_id": vec![1; STOP_TOKENS_MAX + 1] })).is_err());
    }

    #[test]
    fn defaults_are_taken_when_possible_and_refused_by_key_when_not() {
        let generation = json!({ "temperature": 0.7, "top_k": 20, "top_p": null, "do_sample": true });
        let expected = GenerationDefaults { temperature: Some(0.7), top_k: Some(20), ..GenerationDefaults::default() };
        assert_eq!(GenerationDefaults::read(&generation), Ok(expected));
        for key in ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"] {
            let refusal = GenerationDefaults::read(&json!({ key: -1 })).expect_err("negative").to_string();
            assert!(refusal.starts_with(&format!("key {key:?}: expected")), "{refusal}");
        }
    }

    #[test]
    fn the_context_is_named_at_either_level_and_is_above_0() {
        assert_eq!(context_tokens(&json!({ "max_position_embeddings": 8192 })), Ok(8192));
        assert_eq!(context_tokens(&json!({ "text_config": { "max_position_embeddings": 9 } })), Ok(9));
        assert!(context_tokens(&json!({})).is_err());
        assert!(context_tokens(&json!({ "max_position_embeddings": 0 })).is_err());
    }
}
