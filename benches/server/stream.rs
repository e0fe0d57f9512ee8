//! The client's side of one streamed answer: when it was asked for, when each piece of text came, what the server says
//! about its own times. Nothing is parsed until the stream is over, so that the client costs little meanwhile.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::Connection;

/// What begins a chunk that carries text; the role's chunk names the role first.
const TEXT_MARK: &str = r#""delta":{"content":"#;

/// One answer.
#[derive(Debug)]
pub struct Streamed {
    pub asked: Instant,
    /// When each piece of text was in our hands.
    pub arrivals: Vec<Instant>,
    body: String,
}

/// The messages of a chat that says one thing.
pub fn messages(question: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": question})]
}

/// The body that asks for exactly `tokens` tokens, always the same ones.
pub fn body(question: &str, tokens: u32) -> String {
    json!({
        "messages": messages(question), "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stream": true,
    })
    .to_string()
}

/// The same for any conversation, with token counts at the end; fields may be added.
pub fn conversation(messages: &[Value], tokens: u32) -> Value {
    json!({
        "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true},
    })
}

/// Asks and reads to the end.
pub fn ask(connection: &mut Connection, body: &str) -> Streamed {
    let asked = Instant::now();
    connection.send_chat(body).expect("the server reads");
    let (status, _) = connection.head().expect("the server answers");
    assert_eq!(status, 200, "a chat is answered");
    let (mut arrivals, mut text) = (Vec::new(), String::new());
    while let Some(chunk) = connection.chunk().expect("the stream is whole") {
        let now = Instant::now();
        let chunk = std::str::from_utf8(&chunk).expect("events are UTF-8");
        arrivals.extend(chunk.matches(TEXT_MARK).map(|_| now));
        text.push_str(chunk);
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "the stream ended as asked: {text}");
    Streamed { asked, arrivals, body: text }
}

impl Streamed {
    /// From the request to the first piece of text.
    pub fn first(&self) -> Duration {
        *self.arrivals.first().expect("an answer has text") - self.asked
    }

    /// From the first piece of text to the last.
    pub fn rest(&self) -> Duration {
        *self.arrivals.last().expect("an answer has text") - self.arrivals[0]
    }

    /// The joined text.
    pub fn text(&self) -> String {
        self.chunks().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
    }

    /// A member of `timings`, which comes with the end.
    pub fn timing(&self, name: &str) -> f64 {
        let timings = self.chunks().find_map(|chunk| chunk.get("timings").cloned()).expect("the end has timings");
        timings[name].as_f64().unwrap_or_else(|| panic!("timings say no {name}: {timings}"))
    }

    /// Tokens of the prompt, those of them that were cached, and tokens of the answer.
    pub fn usage(&self) -> [u64; 3] {
        let mut usages = self.chunks().filter(|chunk| chunk["usage"].is_object()).map(|chunk| chunk["usage"].clone());
        let usage = usages.next().expect("the end has usage");
        let counts =
            [&usage["prompt_tokens"], &usage["prompt_tokens_details"]["cached_tokens"], &usage["completion_tokens"]];
        counts.map(|count| count.as_u64().unwrap_or_else(|| panic!("a count is missing: {usage}")))
    }

    fn chunks(&self) -> impl Iterator<Item = Value> {
        let events = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        events.filter_map(|event| serde_json::from_str(event).ok())
    }
}
