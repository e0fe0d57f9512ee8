//! One look at a server, as its users see it: is a model listed, or is a question answered. One tick, one JSON line on
//! stdout, one exit code. It owns what counts as healthy; it refuses to restart anything.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::wire::{ChatAnswer, ChatRequest, ErrorEnvelope, Message, Models};
use crate::client::{Client, ClientError, Reply};
use crate::config::args::{ProbeArgs, ProbeKind};
use crate::config::home;
use crate::ops::target::Target;
use crate::platform::files;

/// How long `GET /v1/models` may take.
const HTTP_LIMIT: Duration = Duration::from_secs(10);
/// How long a chat may take.
const CHAT_LIMIT: Duration = Duration::from_secs(120);
/// Longest limit that may be asked for instead.
const LIMIT_SECONDS_MAX: f64 = 3_600.0;
/// What is asked, and what the answer must contain.
const QUESTION: &str = "What is 2+2? Respond with only the number.";
const EXPECTED: &str = "4";
/// Enough for a model that thinks before it answers.
const ANSWER_TOKENS: u32 = 512;

/// How a tick ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// The server answers.
    Healthy = 0,
    /// It does not.
    Unhealthy = 1,
    /// The probe cannot run, or a human is needed.
    CannotRun = 2,
}

/// The line that a tick prints.
#[derive(Debug, Serialize)]
struct Line {
    /// When, in RFC 3339.
    ts: String,
    level: &'static str,
    event: &'static str,
    /// How long the look took.
    probe_ms: u64,
    /// Ticks in a row that ended like this one in being healthy or not.
    consecutive: u32,
    /// `mtls`, `plain`, or `none` when nothing was sent.
    transport: &'static str,
    detail: String,
}

/// What a tick leaves for the next.
#[derive(Debug, Serialize, Deserialize, Default)]
struct Past {
    healthy: bool,
    consecutive: u32,
}

/// What a look saw.
#[derive(Debug)]
struct Seen {
    health: Health,
    level: &'static str,
    event: &'static str,
    detail: String,
}

/// `probe …`: looks once, prints one line, and says how it ended.
#[must_use]
pub fn run(args: &ProbeArgs) -> Health {
    let begun = Instant::now();
    let (transport, seen) = match prepare(args) {
        Ok((client, transport)) => (transport, look(&client, args.kind)),
        Err(error) => ("none", cannot_run(format!("{error:#}"))),
    };
    let consecutive =
        home::root(args.server.root.home.as_deref()).map_or(1, |home| remember(&home, args.kind, seen.health));
    let ts = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    let probe_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let Seen { health, level, event, detail } = seen;
    let line = Line { ts, level, event, probe_ms, consecutive, transport, detail };
    println!("{}", serde_json::to_string(&line).expect("texts and numbers are JSON"));
    health
}

fn prepare(args: &ProbeArgs) -> anyhow::Result<(Client, &'static str)> {
    let usual = match args.kind {
        ProbeKind::Http => HTTP_LIMIT,
        ProbeKind::Chat => CHAT_LIMIT,
    };
    let limit = match args.timeout_seconds {
        None => usual,
        Some(seconds) if seconds > 0.0 && seconds <= LIMIT_SECONDS_MAX => Duration::from_secs_f64(seconds),
        Some(seconds) => bail!("--timeout-seconds {seconds}: wants more than 0 and at most {LIMIT_SECONDS_MAX}"),
    };
    let target = Target::of(&args.server)?;
    Ok((target.client(limit)?, target.transport()))
}

fn look(client: &Client, kind: ProbeKind) -> Seen {
    let seen = match kind {
        ProbeKind::Http => client.get("/v1/models").and_then(|reply| judge_models(&reply)),
        ProbeKind::Chat => {
            let message = Message { role: "user".to_owned(), content: Some(QUESTION.to_owned()) };
            let request = ChatRequest {
                model: None,
                messages: vec![message],
                temperature: 0.0,
                max_completion_tokens: ANSWER_TOKENS,
                stream: false,
            };
            client.post("/v1/chat/completions", &request).and_then(|reply| judge_chat(&reply))
        }
    };
    seen.unwrap_or_else(|error| match error {
        ClientError::Material { .. } | ClientError::Url(_) => cannot_run(error.to_string()),
        ClientError::Timeout(_) | ClientError::Transport(_) | ClientError::Refused { .. } | ClientError::Reply(_) => {
            unhealthy(error.to_string())
        }
    })
}

fn judge_models(reply: &Reply) -> Result<Seen, ClientError> {
    if reply.status != 200 {
        return Ok(refused(reply));
    }
    let models: Models = reply.json()?;
    let names: Vec<&str> = models.data.iter().map(|model| model.id.as_str()).collect();
    if names.is_empty() {
        return Ok(unhealthy("200, but no model is listed".to_owned()));
    }
    Ok(healthy(names.join(", ")))
}

fn judge_chat(reply: &Reply) -> Result<Seen, ClientError> {
    if reply.status != 200 {
        return Ok(refused(reply));
    }
    let answer: ChatAnswer = reply.json()?;
    let content = answer.choices.into_iter().next().and_then(|choice| choice.message.content).unwrap_or_default();
    let shown: String = content.chars().take(80).collect();
    if content.trim().is_empty() {
        return Ok(unhealthy("200, but the answer is empty".to_owned()));
    }
    if !content.contains(EXPECTED) {
        return Ok(unhealthy(format!("the answer does not contain {EXPECTED}: {shown:?}")));
    }
    Ok(healthy(format!("answered {shown:?}")))
}

/// Any status but 200. A full queue is a server at work, yet not one that answers now.
fn refused(reply: &Reply) -> Seen {
    let code = reply.json::<ErrorEnvelope>().ok();
    let detail = match &code {
        Some(ErrorEnvelope { error }) => format!("{} {}", reply.status, error.message),
        None => format!("{} {}", reply.status, reply.excerpt()),
    };
    if reply.status == 429 {
        return Seen { health: Health::Unhealthy, level: "warn", event: "probe_busy", detail };
    }
    unhealthy(detail)
}

fn healthy(detail: String) -> Seen {
    Seen { health: Health::Healthy, level: "info", event: "probe_ok", detail }
}

fn unhealthy(detail: String) -> Seen {
    Seen { health: Health::Unhealthy, level: "error", event: "probe_failed", detail }
}

fn cannot_run(detail: String) -> Seen {
    Seen { health: Health::CannotRun, level: "error", event: "probe_cannot_run", detail }
}

/// Counts this tick after the ones before it, on disk. A torn or alien file is set aside and counting begins anew; a
/// disk that cannot be written to must not make a healthy server unhealthy.
fn remember(home: &Path, kind: ProbeKind, health: Health) -> u32 {
    let name = match kind {
        ProbeKind::Http => "probe-http.last.json",
        ProbeKind::Chat => "probe-chat.last.json",
    };
    let path = home.join("state").join(name);
    let past = past(&path);
    let healthy = health == Health::Healthy;
    let consecutive = if past.healthy == healthy { past.consecutive.saturating_add(1) } else { 1 };
    if let Err(error) = write(&path, &Past { healthy, consecutive }) {
        eprintln!("probe: cannot write {} ({error}); consecutive is counted from what was there", path.display());
    }
    consecutive
}

fn past(path: &Path) -> Past {
    let Ok(text) = fs::read(path) else { return Past::default() };
    serde_json::from_slice(&text).unwrap_or_else(|_| {
        // Kept for whoever wants to know; that it cannot even be renamed is told when the new one is written.
        let _ = fs::rename(path, path.with_extension("json.torn"));
        Past::default()
    })
}

fn write(path: &Path, past: &Past) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    files::replace(path, &serde_json::to_vec(past)?, 0o600)
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
