//! Reading the small files of a model folder, each within a limit, and finding the large ones.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::model::weights::error::{Flaw, LoadError};

/// Largest JSON or template file that is read whole. Real ones have a few hundred KB at most; an index of shards of the
/// largest models some 10 MB.
pub(super) const TEXT_FILE_BYTES_MAX: u64 = 32 << 20;
/// Most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 10_000;

/// A file as text.
pub(super) fn text(path: &Path) -> Result<String, LoadError> {
    let file = File::open(path).map_err(LoadError::io(path))?;
    let mut text = String::new();
    let mut limited = file.take(TEXT_FILE_BYTES_MAX + 1);
    limited.read_to_string(&mut text).map_err(LoadError::io(path))?;
    if text.len() as u64 > TEXT_FILE_BYTES_MAX {
        let what = "file size in bytes".to_owned();
        return Err(Flaw::TooMany { what, max: TEXT_FILE_BYTES_MAX, found: text.len() as u64 }.within(path));
    }
    Ok(text)
}

/// A file as text, if it is there.
pub(super) fn optional_text(path: &Path) -> Result<Option<String>, LoadError> {
    match text(path) {
        Ok(text) => Ok(Some(text)),
        Err(LoadError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that holds a JSON object.
pub(super) fn json_object(path: &Path) -> Result<Value, LoadError> {
    parse_object(path, &text(path)?)
}

/// A file that holds a JSON object; an empty object when it is not there.
pub(super) fn optional_json_object(path: &Path) -> Result<Value, LoadError> {
    match optional_text(path)? {
        Some(text) => parse_object(path, &text),
        None => Ok(Value::Object(serde_json::Map::new())),
    }
}

fn parse_object(path: &Path, text: &str) -> Result<Value, LoadError> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| Flaw::unexpected("content", "JSON", error).within(path))?;
    match value {
        Value::Object(_) => Ok(value),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(Flaw::unexpected("content", "a JSON object", "another JSON value").within(path))
        }
    }
}

/// The one `.gguf` file of a folder that has no safetensors and no `config.json`.
pub(super) fn only_gguf(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    let names = names(folder)?;
    let is = |name: &String, extension: &str| name.ends_with(extension);
    if names.iter().any(|name| is(name, ".safetensors") || name == "config.json") {
        return Ok(None);
    }
    let mut found = names.iter().filter(|name| is(name, ".gguf"));
    match (found.next(), found.count()) {
        (Some(name), 0) => Ok(Some(folder.join(name))),
        (Some(_), others) => {
            let expected = "exactly one .gguf file, or a model in safetensors";
            Err(Flaw::unexpected("folder", expected, format_args!("{} .gguf files", others + 1)).within(folder))
        }
        (None, _) => {
            let expected = "config.json and .safetensors files, or one .gguf file";
            Err(Flaw::unexpected("folder", expected, "neither").within(folder))
        }
    }
}

/// The names of a folder's entries, ascending; what is not UTF-8 is no file of a model.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, LoadError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(LoadError::io(folder))?.take(ENTRIES_MAX) {
        let entry = entry.map_err(LoadError::io(folder))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
