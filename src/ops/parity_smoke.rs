//! The parity-smoke battery: the weights answer as they did. Ten prompts at temperature 0 are compared with recorded
//! answers, word for word. It owns the spec file, which a person may edit and `--record` writes anew; it refuses to judge
//! whether an answer is good, and to restart anything.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::config::args::ParitySmokeArgs;
use crate::config::home;
use crate::ops::fallback::lock::Lock;
use crate::ops::look::{self, Seen};
use crate::ops::target::Target;
use crate::ops::watch::event::{Event, Kind};
use crate::ops::watch::plan::Plan;
use crate::ops::watch::tick::{Health, Tick, Watcher};
use crate::platform::files;

const OK: Kind = Kind::info("parity_ok");
/// Some answers differ, no more than are tolerated: a prompt on the edge between two tokens.
const CHANGED: Kind = Kind::warn("parity_changed");
/// More answers differ than are tolerated.
const DRIFTED: Kind = Kind::error("parity_drifted").alerting(12 * 60);
/// Prompts were not answered at all.
const UNANSWERED: Kind = Kind::error("parity_unanswered").alerting(60);
/// The answers were recorded.
const RECORDED: Kind = Kind::info("parity_recorded");
const CANNOT_RUN: Kind = Kind::error("parity_cannot_run").alerting(12 * 60);

/// The spec's name below the root.
const FILE: &str = "parity-smoke.json";
/// Answers that may differ before someone is called.
const TOLERATED: usize = 1;
/// Characters of an answer that are told.
const SHOWN_CHARS: usize = 60;
/// What is asked until somebody edits the file: facts, arithmetic, code, a form, other scripts, a long copy.
const PROMPTS: [&str; 10] = [
    "What is the capital of France? Answer in one sentence.",
    "What is 12 times 12? Respond with only the number.",
    "List the days of the week, separated by commas.",
    "Write a Python function that returns the sum of two numbers.",
    "Translate to Spanish: Good morning, my friend.",
    "Complete the sentence: The quick brown fox jumps over",
    "Name three primary colours as a JSON array.",
    "Explain in one sentence why the sky is blue.",
    "Spell the word 'inference' backwards.",
    "Repeat exactly: a1 b2 c3 d4 e5 f6 g7 h8 i9 j0",
];
/// Tokens of an answer: enough for weights that changed to show it.
const TOKENS: u32 = 48;

/// The spec file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    /// The model that gave the answers.
    model: String,
    prompts: Vec<Case>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    prompt: String,
    max_tokens: u32,
    /// What must come, to the letter.
    expected: String,
}

/// One tick, or with `--record` a new spec.
#[must_use]
pub fn run(args: &ParitySmokeArgs) -> Health {
    let every = (!args.record).then(|| Duration::from_secs(args.every_seconds));
    let home = home::root(args.server.root.home.as_deref());
    let tick = Tick::begin(Watcher { name: "parity-smoke", every }, home.as_deref().ok());
    let prepared = home.map_err(anyhow::Error::from).and_then(|home| {
        let plan = Plan::of(&home)?;
        let lock = Lock::of(&home)?;
        ensure!(!args.record || lock.is_none(), "the fallback serves, and its answers are not to be kept");
        let target = Target::of(&args.server)?;
        let client = target.client(look::limit(args.timeout_seconds, look::CHAT_LIMIT)?)?;
        let path = args.spec.clone().unwrap_or_else(|| home.join(FILE));
        Ok((plan, lock, (target, client), path))
    });
    let (plan, lock, (target, client), path) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return tick.end(Health::CannotRun, "none", vec![cannot_run(&error)], None),
    };
    if let Some(lock) = lock {
        // What was recorded are the answers of the server that is down: another one's are not compared with them.
        return tick.end(Health::Healthy, "none", vec![lock.event()], Some(&plan));
    }
    let done = if args.record { record(&client, &path) } else { compare(&client, &path) };
    let (health, event) = done.unwrap_or_else(|error| (Health::CannotRun, cannot_run(&error)));
    tick.end(health, target.transport(), vec![event], Some(&plan))
}

fn cannot_run(error: &anyhow::Error) -> Event {
    CANNOT_RUN.with(format!("{error:#}"))
}

/// Asks everything and keeps the answers: all of them, or what was kept before.
fn record(client: &Client, path: &Path) -> anyhow::Result<(Health, Event)> {
    let model = served(client)?;
    let asked: Vec<(String, u32)> = match read(path)? {
        Some(spec) => spec.prompts.into_iter().map(|case| (case.prompt, case.max_tokens)).collect(),
        None => PROMPTS.into_iter().map(|prompt| (prompt.to_owned(), TOKENS)).collect(),
    };
    let mut prompts = Vec::with_capacity(asked.len());
    for (prompt, max_tokens) in asked {
        match look::answer(client, &prompt, max_tokens) {
            Ok(expected) => prompts.push(Case { prompt, max_tokens, expected }),
            Err(seen) => bail!("{prompt:?} was not answered, nothing was recorded: {}", words(seen)),
        }
    }
    let detail = format!("{} answers of {model} in {}", prompts.len(), path.display());
    let text = serde_json::to_vec_pretty(&Spec { model, prompts })?;
    files::replace(path, &text, 0o644).with_context(|| path.display().to_string())?;
    Ok((Health::Healthy, RECORDED.with(detail)))
}

/// Asks everything and compares.
fn compare(client: &Client, path: &Path) -> anyhow::Result<(Health, Event)> {
    let spec = read(path)?
        .with_context(|| format!("{} is missing; `sanctum-mlx parity-smoke --record` makes it", path.display()))?;
    let model = match served(client) {
        Ok(model) => model,
        Err(error) => return Ok((Health::Unhealthy, UNANSWERED.with(format!("{error:#}")))),
    };
    ensure!(
        model == spec.model,
        "{} was recorded from {}, and {model} is served; record again if that is meant",
        path.display(),
        spec.model
    );
    let mut differing = Vec::new();
    for Case { prompt, max_tokens, expected } in &spec.prompts {
        match look::answer(client, prompt, *max_tokens) {
            Ok(answer) if answer == *expected => {}
            Ok(answer) => differing.push(format!("{prompt:?}: wants {}, got {}", shown(expected), shown(&answer))),
            Err(seen) => return Ok((Health::Unhealthy, UNANSWERED.with(format!("{prompt:?}: {}", words(seen))))),
        }
    }
    Ok(judge(&differing, spec.prompts.len()))
}

fn judge(differing: &[String], asked: usize) -> (Health, Event) {
    let detail = format!("{} of {asked} answers differ: {}", differing.len(), differing.join("; "));
    match differing.len() {
        0 => (Health::Healthy, OK.with(format!("{asked} answers are as recorded"))),
        count if count <= TOLERATED => (Health::Healthy, CHANGED.with(detail)),
        _ => (Health::Unhealthy, DRIFTED.with(detail)),
    }
}

/// The model that is served.
fn served(client: &Client) -> anyhow::Result<String> {
    match look::models(client) {
        Seen::Fine(names) => Ok(names),
        other => bail!("/v1/models: {}", words(other)),
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Spec>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let spec: Spec = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    ensure!(!spec.prompts.is_empty(), "{} has no prompts", path.display());
    Ok(Some(spec))
}

fn words(seen: Seen) -> String {
    match seen {
        Seen::Fine(words) | Seen::Busy(words) | Seen::Failed(words) | Seen::CannotLook(words) => words,
    }
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(SHOWN_CHARS).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_of_ten_may_differ_and_two_call_someone() {
        let differing = ["a".to_owned(), "b".to_owned()];
        let of = |count: usize| {
            let (health, event) = judge(&differing[..count], 10);
            (health, event.kind.name, event.kind.cooldown.is_some())
        };
        assert_eq!(of(0), (Health::Healthy, "parity_ok", false));
        assert_eq!(of(1), (Health::Healthy, "parity_changed", false));
        assert_eq!(of(2), (Health::Unhealthy, "parity_drifted", true));
    }
}
