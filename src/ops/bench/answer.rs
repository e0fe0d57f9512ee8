//! One streamed answer as its reader sees it: when each piece of text came, what the server counted, or why there is no
//! whole answer. While it comes, events are stored with their times and nothing is parsed, so that the client takes little
//! from the server it measures.

use std::time::{Duration, Instant};

use crate::client::sse::Event;
use crate::client::wire::{Chunk, StreamRequest};
use crate::client::{Client, ClientError};

/// The route.
const PATH: &str = "/v1/chat/completions";

/// A whole answer of the right length. Its times count from the moment at which the request was due.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// How much later than due it was sent.
    pub(super) late: Duration,
    /// Until the first piece of text.
    pub(super) first: Duration,
    /// Until the last.
    pub(super) last: Duration,
    /// Between each two.
    pub(super) gaps: Vec<Duration>,
    pub(super) prompt_tokens: u32,
    pub(super) cached_tokens: u32,
    pub(super) completion_tokens: u32,
    /// The server's words for what computed it.
    pub(super) fingerprint: Option<String>,
}

/// What became of one request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// It was answered.
    Answered(Answer),
    /// The server said at once that it has no room.
    Refused(String),
    /// There is no whole answer, or one of another length.
    Failed(String),
}

/// Asks once and reads to the end.
pub(super) fn ask(client: &Client, request: &StreamRequest, due: Instant) -> Outcome {
    let sent = Instant::now();
    let events = match client.stream(PATH, request) {
        Ok(events) => events,
        Err(refusal @ ClientError::Refused { status: 429 | 503, .. }) => return Outcome::Refused(refusal.to_string()),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let (mut arrivals, mut done) = (Vec::new(), false);
    for event in events {
        let now = Instant::now();
        match event {
            Ok(Event::Data(data)) => arrivals.push((now, data)),
            Ok(Event::Ping(_)) => {}
            Ok(Event::Done) => done = true,
            Err(error) => return Outcome::Failed(format!("the stream broke: {error}")),
        }
    }
    match read(&arrivals, due, request.max_completion_tokens) {
        Ok(answer) if done => Outcome::Answered(Answer { late: sent.saturating_duration_since(due), ..answer }),
        Ok(_) => Outcome::Failed("the stream was cut".to_owned()),
        Err(why) => Outcome::Failed(why),
    }
}

/// What the events of a stream say.
fn read(arrivals: &[(Instant, String)], due: Instant, tokens: u32) -> Result<Answer, String> {
    let (mut times, mut ended, mut usage, mut fingerprint) = (Vec::new(), None, None, None);
    for (at, data) in arrivals {
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| format!("an event is no chunk: {error}"))?;
        if let Some(error) = chunk.error {
            return Err(format!("the stream ended with an error: {}", error.message));
        }
        if chunk.choices.iter().any(|choice| choice.delta.has_text()) {
            times.push(*at);
        }
        if chunk.choices.iter().any(|choice| choice.finish_reason.is_some()) {
            ended = Some(*at);
        }
        usage = chunk.usage.or(usage);
        fingerprint = fingerprint.or(chunk.system_fingerprint);
    }
    let usage = usage.ok_or("the stream was cut, or does not count its tokens")?;
    if usage.completion_tokens != tokens {
        let found = usage.completion_tokens;
        return Err(format!("{found} tokens instead of {tokens}: the server does not keep to `ignore_eos`"));
    }
    if times.is_empty() {
        // Tokens that are no text, or half a letter: what their reader sees is the end.
        times.push(ended.ok_or("the stream was cut")?);
    }
    let (first, last) = (times[0], times[times.len() - 1]);
    Ok(Answer {
        late: Duration::ZERO,
        first: first.saturating_duration_since(due),
        last: last.saturating_duration_since(due),
        gaps: times.windows(2).map(|pair| pair[1] - pair[0]).collect(),
        prompt_tokens: usage.prompt_tokens,
        cached_tokens: usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
        completion_tokens: usage.completion_tokens,
        fingerprint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""}}],"system_fingerprint":"f"}"#;
    const TEXT: &str = r#"{"choices":[{"delta":{"content":"x"}}]}"#;
    const THOUGHT: &str = r#"{"choices":[{"delta":{"reasoning_content":"x"}}]}"#;
    const END: &str = r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#;

    /// Reads events that come 10 ms apart, the first of them 10 ms after the request was due.
    fn read_all(events: &[&str], tokens: u32) -> Result<Answer, String> {
        let due = Instant::now();
        let at = |index: usize| due + Duration::from_millis(10 * (index as u64 + 1));
        let arrivals: Vec<_> = events.iter().enumerate().map(|(index, data)| (at(index), (*data).to_owned())).collect();
        read(&arrivals, due, tokens)
    }

    #[test]
    fn times_are_those_of_pieces_of_text_and_of_nothing_else() {
        let answer = read_all(&[ROLE, THOUGHT, TEXT, END, TEXT, USAGE], 3).expect("it is whole");
        let expected = Answer {
            late: Duration::ZERO,
            first: Duration::from_millis(20),
            last: Duration::from_millis(50),
            gaps: vec![Duration::from_millis(10), Duration::from_millis(20)],
            prompt_tokens: 9,
            cached_tokens: 4,
            completion_tokens: 3,
            fingerprint: Some("f".to_owned()),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn an_answer_without_text_is_seen_when_it_ends() {
        let answer = read_all(&[ROLE, END, USAGE], 3).expect("it is whole");
        let end = Duration::from_millis(20);
        assert_eq!((answer.first, answer.last, answer.gaps.len()), (end, end, 0));
    }

    #[test]
    fn an_answer_of_another_length_an_error_and_a_stream_without_counts_are_failures() {
        let why = |events: &[&str], tokens| read_all(events, tokens).expect_err("it is not whole");
        assert!(why(&[ROLE, TEXT, END, USAGE], 4).contains("3 tokens instead of 4"));
        assert!(why(&[ROLE, TEXT, r#"{"error":{"message":"no more"}}"#], 3).contains("no more"));
        assert!(why(&[ROLE, TEXT, END], 3).contains("does not count"));
        assert!(why(&[ROLE, USAGE], 3).contains("cut"));
        assert!(why(&["nonsense"], 3).contains("no chunk"));
    }
}
