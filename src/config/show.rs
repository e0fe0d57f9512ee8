//! What `serve --check` prints: each resolved setting with the one who gave it, as a table or as JSON. Secrets are never
//! among the rows: the token's file is named, the token is not.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::config::resolve::Resolved;

/// The settings as a table with the columns setting, value and source.
#[must_use]
pub fn table(resolved: &Resolved) -> String {
    let value = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let rows: Vec<[String; 3]> =
        resolved.rows.iter().map(|row| [row.key.to_owned(), value(&row.value), row.source.to_string()]).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut text = format!("{:first$}  {:second$}  source\n", "setting", "value");
    for [key, value, source] in &rows {
        writeln!(text, "{key:first$}  {value:second$}  {source}").expect("a string takes everything");
    }
    text
}

/// The settings as one JSON object: by key, the value's text and its source.
#[must_use]
pub fn json(resolved: &Resolved) -> String {
    let row = |value: &str, source: String| json!({ "value": value, "source": source });
    let rows: Map<String, Value> =
        resolved.rows.iter().map(|entry| (entry.key.to_owned(), row(&entry.value, entry.source.to_string()))).collect();
    serde_json::to_string_pretty(&rows).expect("texts are JSON")
}
