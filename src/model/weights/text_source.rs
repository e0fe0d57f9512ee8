//! Where the text side of a model comes from. It reads and bounds the files; it refuses to know what a tokenizer is.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::weights::error::{Flaw, LoadError};
use crate::model::weights::files;
use crate::model::weights::gguf::vocabulary::Vocabulary;

/// Largest `tokenizer.json`; the largest real ones have some 35 MB.
pub const TOKENIZER_BYTES_MAX: u64 = 128 << 20;

/// What `text` makes a tokenizer and a chat template of.
#[derive(Debug, Clone, PartialEq)]
pub enum TextSource {
    /// The files of a Hugging Face folder.
    Json {
        /// There, a regular file, and within its limit of size.
        tokenizer_json: PathBuf,
        /// `tokenizer_config.json`; an empty object when there is none.
        tokenizer_config: Value,
        /// The chat template's Jinja source.
        template: Option<String>,
    },
    /// The metadata of a GGUF file.
    Gguf(Box<Vocabulary>),
}

impl TextSource {
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let tokenizer_json = folder.join("tokenizer.json");
        let found = fs::metadata(&tokenizer_json).map_err(LoadError::io(&tokenizer_json))?;
        if !found.is_file() {
            return Err(Flaw::unexpected("tokenizer", "a regular file", "something else").within(&tokenizer_json));
        }
        if found.len() > TOKENIZER_BYTES_MAX {
            let what = "file size in bytes".to_owned();
            return Err(Flaw::TooMany { what, max: TOKENIZER_BYTES_MAX, found: found.len() }.within(&tokenizer_json));
        }
        let config_path = folder.join("tokenizer_config.json");
        let tokenizer_config = files::optional_json_object(&config_path)?;
        let template = match files::optional_text(&folder.join("chat_template.jinja"))? {
            Some(template) => Some(template),
            None => match named_template(&tokenizer_config).map_err(|flaw| flaw.within(&config_path))? {
                Some(template) => Some(template),
                None => {
                    let path = folder.join("chat_template.json");
                    let object = files::optional_json_object(&path)?;
                    named_template(&object).map_err(|flaw| flaw.within(&path))?
                }
            },
        };
        Ok(Self::Json { tokenizer_json, tokenizer_config, template })
    }
}

/// `chat_template`: a string, or a list of named ones of which `default` is meant.
fn named_template(object: &Value) -> Result<Option<String>, Flaw> {
    let Some(value) = object.get("chat_template").filter(|value| !value.is_null()) else { return Ok(None) };
    let is_default = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
    let chosen = match value {
        Value::Array(entries) => entries.iter().find(is_default).and_then(|entry| entry.get("template")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Some(value),
    };
    match chosen.and_then(Value::as_str) {
        Some(template) => Ok(Some(template.to_owned())),
        None => {
            Err(Flaw::unexpected("key \"chat_template\"", "a string, or a list with one named \"default\"", "neither"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_a_string_or_the_default_one_of_a_list() {
        let list = json!([{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }]);
        assert_eq!(named_template(&json!({ "chat_template": "x" })), Ok(Some("x".to_owned())));
        assert_eq!(named_template(&json!({ "chat_template": list })), Ok(Some("d".to_owned())));
        assert_eq!(named_template(&json!({})), Ok(None));
        assert!(named_template(&json!({ "chat_template": [{ "name": "tool_use", "template": "t" }] })).is_err());
        assert!(named_template(&json!({ "chat_template": 1 })).is_err());
    }
}
