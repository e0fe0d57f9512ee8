//! The text files of a model folder in the Hugging Face layout. It refuses to know weights and the model's own
//! configuration.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::text::{ChatTemplate, TemplateError, Text, Tokenizer, TokenizerError};

/// Largest `tokenizer_config.json` or template that is read; large ones have a few hundred kilobytes of added tokens.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The special tokens that templates name.
const NAMED_TOKENS: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

/// Why a model's text cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is not valid: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The vocabulary makes no tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template does not compile.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Reads a folder. A template in a file of its own wins over one in `tokenizer_config.json`.
pub(super) fn text(folder: &Path, end_ids: &[u32]) -> Result<Text, FolderError> {
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"))?;
    let config = config(&folder.join("tokenizer_config.json"))?;
    let source = match read(&folder.join("chat_template.jinja"))? {
        Some(source) => Some(source),
        None => template_of(&config).map(ToOwned::to_owned),
    };
    let named = NAMED_TOKENS.into_iter().filter_map(|name| Some((name, token_of(&config[name])?.to_owned())));
    let template = source.map(|source| ChatTemplate::new(&source, named)).transpose()?;
    let own_end = token_of(&config["eos_token"]).and_then(|token| tokenizer.id_of(token));
    let end_ids: Vec<u32> = end_ids.iter().copied().chain(own_end).collect();
    Ok(Text::new(tokenizer, template, &end_ids))
}

fn config(path: &Path) -> Result<Value, FolderError> {
    let Some(json) = read(path)? else { return Ok(Value::Null) };
    serde_json::from_str(&json)
        .map_err(|error| FolderError::Invalid { path: path.to_owned(), reason: error.to_string() })
}

/// The content of a text file that may be absent.
fn read(path: &Path) -> Result<Option<String>, FolderError> {
    let unreadable = |source| FolderError::Unreadable { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        let reason = format!("it is larger than the limit of {FILE_BYTES_MAX} bytes");
        return Err(FolderError::Invalid { path: path.to_owned(), reason });
    }
    Ok(Some(text))
}

/// One template, or the one called `default` of several.
fn template_of(config: &Value) -> Option<&str> {
    match &config["chat_template"] {
        Value::Array(several) => several.iter().find(|one| one["name"] == "default")?["template"].as_str(),
        single => single.as_str(),
    }
}

/// A token is written as its text or as an object that holds it.
fn token_of(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}
