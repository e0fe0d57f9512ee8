//! One look at a server, as its users see it: is a model listed, is a question answered. It owns what counts as an
//! answer; it refuses to know who looks, how often, and what follows.

use std::time::Duration;

use anyhow::bail;

use crate::client::wire::{ChatAnswer, ChatRequest, ErrorEnvelope, Message, Models};
use crate::client::{Client, ClientError, Reply};

/// How long `GET /v1/models` may take.
pub(crate) const MODELS_LIMIT: Duration = Duration::from_secs(10);
/// How long a chat may take.
pub(crate) const CHAT_LIMIT: Duration = Duration::from_secs(120);
/// Longest limit that may be asked for.
const LIMIT_SECONDS_MAX: f64 = 3_600.0;
/// Enough for a model that thinks before it answers.
const ANSWER_TOKENS: u32 = 512;
/// Characters of an answer that are told.
const SHOWN_CHARS: usize = 80;

/// What a look saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The answer is right.
    Fine(String),
    /// The queue is full: a server at work, yet not one that answers now.
    Busy(String),
    /// Anything else that came, or did not.
    Failed(String),
    /// Nothing was sent: the look itself is wrong.
    CannotLook(String),
}

/// The limit that was asked for, or the usual one.
pub(crate) fn limit(seconds: Option<f64>, usual: Duration) -> anyhow::Result<Duration> {
    match seconds {
        None => Ok(usual),
        Some(seconds) if seconds > 0.0 && seconds <= LIMIT_SECONDS_MAX => Ok(Duration::from_secs_f64(seconds)),
        Some(seconds) => bail!("--timeout-seconds {seconds}: wants more than 0 and at most {LIMIT_SECONDS_MAX}"),
    }
}

/// `GET /v1/models` answers 200 with a model; their names.
pub(crate) fn models(client: &Client) -> Seen {
    let reply = match client.get("/v1/models") {
        Ok(reply) if reply.status == 200 => reply,
        Ok(reply) => return refused(&reply),
        Err(error) => return unanswered(error),
    };
    match reply.json::<Models>() {
        Ok(Models { data }) if data.is_empty() => Seen::Failed("200, but no model is listed".to_owned()),
        Ok(Models { data }) => Seen::Fine(data.into_iter().map(|model| model.id).collect::<Vec<_>>().join(", ")),
        Err(error) => unanswered(error),
    }
}

/// A chat answers 200, and the answer to `question` contains `expected`.
pub(crate) fn chat(client: &Client, question: &str, expected: &str) -> Seen {
    match answer(client, question, ANSWER_TOKENS) {
        Ok(content) => {
            let shown: String = content.chars().take(SHOWN_CHARS).collect();
            if content.contains(expected) {
                Seen::Fine(format!("answered {shown:?}"))
            } else {
                Seen::Failed(format!("the answer does not contain {expected}: {shown:?}"))
            }
        }
        Err(seen) => seen,
    }
}

/// The answer to `question` at temperature 0, which is not empty; anything else is what was seen instead.
pub(crate) fn answer(client: &Client, question: &str, tokens_max: u32) -> Result<String, Seen> {
    let request = ChatRequest {
        model: None,
        messages: vec![Message { role: "user".to_owned(), content: Some(question.to_owned()) }],
        temperature: 0.0,
        max_completion_tokens: tokens_max,
        stream: false,
    };
    let reply = client.post("/v1/chat/completions", &request).map_err(unanswered)?;
    if reply.status != 200 {
        return Err(refused(&reply));
    }
    let answer: ChatAnswer = reply.json().map_err(unanswered)?;
    let content = answer.choices.into_iter().next().and_then(|choice| choice.message.content).unwrap_or_default();
    if content.trim().is_empty() {
        return Err(Seen::Failed("200, but the answer is empty".to_owned()));
    }
    Ok(content)
}

fn unanswered(error: ClientError) -> Seen {
    match error {
        ClientError::Material { .. } | ClientError::Url(_) => Seen::CannotLook(error.to_string()),
        ClientError::Timeout(_) | ClientError::Transport(_) | ClientError::Refused { .. } | ClientError::Reply(_) => {
            Seen::Failed(error.to_string())
        }
    }
}

/// Any status but 200.
fn refused(reply: &Reply) -> Seen {
    let detail = match reply.json::<ErrorEnvelope>() {
        Ok(ErrorEnvelope { error }) => format!("{} {}", reply.status, error.message),
        Err(_) => format!("{} {}", reply.status, reply.excerpt()),
    };
    if reply.status == 429 { Seen::Busy(detail) } else { Seen::Failed(detail) }
}
