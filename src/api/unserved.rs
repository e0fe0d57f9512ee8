//! Fields that this server knows and does not serve. Each is a 400 that says what to use instead: a client that asked
//! for something else must not get what looks like an answer.

use serde_json::Value;

use crate::api::error::Invalid;
use crate::api::fields::Fields;

/// Never served under this name, and what to use instead.
const REFUSED: &[(&str, &str)] = &[
    ("functions", "use `tools`"),
    ("function_call", "use `tool_choice`"),
    ("audio", "this server generates text only"),
    ("prediction", "leave it out; the answer does not change"),
    ("web_search_options", "this server does not search; offer a tool"),
    ("bad_words", "use `logit_bias` with token ids"),
    ("cache_salt", "prompt caches are already separate for each client"),
    ("prompt_embeds", "send text or token ids"),
];

/// Refuses every field that would change the answer in a way we do not serve; takes the neutral values of those that
/// have one.
pub(crate) fn refuse(fields: &mut Fields, names: &[String]) -> Result<(), Invalid> {
    for (name, instead) in REFUSED {
        if fields.has(name) {
            return Err(Invalid::unsupported(name, format!("`{name}` is not supported: {instead}")));
        }
    }
    if let Some(name) = names.iter().find(|name| name.starts_with("guided_") && fields.has(name)) {
        let message = format!("`{name}` is not supported: use `response_format` or `structured_outputs`");
        return Err(Invalid::unsupported(name, message));
    }
    neutral(fields, "best_of", &Value::from(1), "use `n`, which returns every answer")?;
    neutral(fields, "modalities", &serde_json::json!(["text"]), "this server generates text only")
}

/// Takes the field if it holds its neutral value, refuses any other.
pub(crate) fn neutral(fields: &mut Fields, name: &str, value: &Value, instead: &str) -> Result<(), Invalid> {
    match fields.take(name) {
        Some(given) if given != *value => {
            Err(Invalid::unsupported(name, format!("`{name}` other than {value} is not supported: {instead}")))
        }
        Some(_) | None => Ok(()),
    }
}
