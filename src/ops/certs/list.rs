//! What `certs list` prints: every certificate that was signed, with its last day and its state.

use std::fmt::Write;

use anyhow::Context;
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::ops::certs::facts;
use crate::ops::certs::store::{Entry, Store};

/// One line of the list.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    serial: String,
    /// The last day, as year-month-day.
    not_after: String,
    state: &'static str,
}

/// The list as a table, or as a JSON array.
pub(super) fn list(store: &Store, now: OffsetDateTime, json: bool) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    let path = store.paths.ca_certificate();
    if let Some(pem) = Store::read(&path)? {
        let facts = facts(&pem).with_context(|| path.display().to_string())?;
        let state = if facts.not_after <= now.unix_timestamp() { "expired" } else { "authority" };
        lines.push(Line { name: "ca".to_owned(), serial: facts.serial, not_after: day(facts.not_after)?, state });
    }
    for entry in &store.register.certificates {
        let (name, serial) = (entry.name.clone(), entry.serial.clone());
        lines.push(Line { name, serial, not_after: day(entry.not_after)?, state: state(entry, now) });
    }
    if json {
        return Ok(serde_json::to_string_pretty(&lines)? + "\n");
    }
    let width = lines.iter().map(|line| line.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:32}  {:10}  state\n", "name", "serial", "not after");
    for Line { name, serial, not_after, state } in &lines {
        writeln!(text, "{name:width$}  {serial:32}  {not_after:10}  {state}")?;
    }
    Ok(text)
}

fn state(entry: &Entry, now: OffsetDateTime) -> &'static str {
    match entry.revoked {
        Some(_) => "revoked",
        None if entry.not_after <= now.unix_timestamp() => "expired",
        None => "good",
    }
}

fn day(unix_seconds: i64) -> anyhow::Result<String> {
    let day = OffsetDateTime::from_unix_timestamp(unix_seconds)?;
    Ok(day.format(format_description!("[year]-[month]-[day]"))?)
}
