//! `POST /v1/completions`, the answer, whole or a chunk of a stream, which have one shape here. It owns the presence of
//! members and OpenAI's older spelling of log probabilities: columns, with an offset of each token in the text.

use serde::{Serialize, Serializer};

use crate::api::answer::{FinishReason, Head, Likely, Timings, TokenLogprob, Usage};

/// What both bodies call themselves.
pub const OBJECT: &str = "text_completion";

/// A whole answer, or one event of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct TextCompletion<'a> {
    /// Shared members.
    #[serde(flatten)]
    pub head: &'a Head,
    /// The answers in the order of their index; in a stream the one that changed, or none in the chunk that carries usage.
    pub choices: &'a [TextChoice<'a>],
    /// Always there in a whole answer. In a stream absent unless asked for; then null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// In a whole answer, and on the chunk that ends an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// One answer, or what is new of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TextChoice<'a> {
    /// From 0 on: all answers to the first prompt, then those to the second.
    pub index: usize,
    /// The text, behind the prompt's with `echo`.
    pub text: &'a str,
    /// Log probabilities, if asked for.
    pub logprobs: Option<TextLogprobs>,
    /// Why it ended; null until then.
    pub finish_reason: Option<FinishReason>,
    /// The tokens of its prompt, if asked for; in a stream on its first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<&'a [u32]>,
    /// The tokens of the answer, or those that are new, if asked for. The one that the model ended with is not among them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<&'a [u32]>,
}

/// Log probabilities as columns, an entry a token.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct TextLogprobs {
    /// Where each token begins, in characters of the answer's text.
    pub text_offset: Vec<usize>,
    /// Natural logarithms, before the temperature.
    pub token_logprobs: Vec<f32>,
    /// The tokens; one that is no text by itself is written `bytes:\x…`.
    pub tokens: Vec<String>,
    /// The likeliest tokens in its place, and it.
    pub top_logprobs: Vec<Top>,
}

/// Tokens with their log probabilities, the likeliest first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Top(Vec<(String, f32)>);

impl Serialize for Top {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

impl Top {
    /// Of two tokens that are written alike the likelier one is told.
    fn add(&mut self, likely: &Likely) {
        let token = spelled(likely);
        if !self.0.iter().any(|(other, _)| *other == token) {
            self.0.push((token, likely.logprob));
        }
    }
}

impl TextLogprobs {
    /// Of these tokens.
    #[must_use]
    pub fn of(tokens: &[TokenLogprob]) -> Self {
        let mut columns = Self::default();
        for TokenLogprob { token, top_logprobs, offset } in tokens {
            columns.text_offset.push(*offset);
            columns.token_logprobs.push(token.logprob);
            columns.tokens.push(spelled(token));
            let mut top = Top::default();
            top_logprobs.iter().chain([token]).for_each(|likely| top.add(likely));
            columns.top_logprobs.push(top);
        }
        columns
    }
}

/// A token's text, or its bytes where they are none.
fn spelled(likely: &Likely) -> String {
    match std::str::from_utf8(&likely.bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => likely.bytes.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::answer::Completion;

    fn head() -> Head {
        let (id, model, print) = ("cmpl-1".to_owned(), "org/model".to_owned(), "v1".to_owned());
        Head { id, object: OBJECT, created: 7, model, system_fingerprint: print }
    }

    fn likely(bytes: &[u8], logprob: f32) -> Likely {
        Likely { token: String::from_utf8_lossy(bytes).into_owned(), logprob, bytes: bytes.to_vec() }
    }

    const TIMINGS: Timings = Timings {
        queue_ms: 0.5,
        cache_n: 1,
        prompt_n: 2,
        prompt_ms: 1.0,
        prompt_per_token_ms: 0.5,
        prompt_per_second: 2000.0,
        predicted_n: 2,
        predicted_ms: 10.0,
        predicted_per_token_ms: 10.0,
        predicted_per_second: 100.0,
        code: None,
    };

    #[test]
    fn a_whole_answer_has_openais_members() {
        let tokens = [
            TokenLogprob {
                token: likely(b" a", -0.5),
                top_logprobs: vec![likely(b" b", -0.25), likely(b" a", -0.5)],
                offset: 0,
            },
            TokenLogprob {
                token: likely(b"\xe2\x9c", -1.5),
                top_logprobs: vec![likely(b"c", -0.5), likely(b"d", -1.0)],
                offset: 2,
            },
        ];
        let choice = TextChoice {
            index: 0,
            text: " a",
            logprobs: Some(TextLogprobs::of(&tokens)),
            finish_reason: Some(FinishReason::Length),
            prompt_token_ids: Some(&[1, 2, 3]),
            token_ids: Some(&[4, 5]),
        };
        let usage = Usage::new(3, 1, Completion { tokens: 2, reasoning_tokens: 0 });
        let answer =
            TextCompletion { head: &head(), choices: &[choice], usage: Some(Some(usage)), timings: Some(TIMINGS) };
        insta::assert_snapshot!(serde_json::to_string(&answer).expect("plain data"), @r#"{"id":"cmpl-1","object":"text_completion","created":7,"model":"org/model","system_fingerprint":"v1","choices":[{"index":0,"text":" a","logprobs":{"text_offset":[0,2],"token_logprobs":[-0.5,-1.5],"tokens":[" a","bytes:\\xe2\\x9c"],"top_logprobs":[{" b":-0.25," a":-0.5},{"c":-0.5,"d":-1.0,"bytes:\\xe2\\x9c":-1.5}]},"finish_reason":"length","prompt_token_ids":[1,2,3],"token_ids":[4,5]}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":0}},"timings":{"queue_ms":0.5,"cache_n":1,"prompt_n":2,"prompt_ms":1.0,"prompt_per_token_ms":0.5,"prompt_per_second":2000.0,"predicted_n":2,"predicted_ms":10.0,"predicted_per_token_ms":10.0,"predicted_per_second":100.0}}"#);
    }

    #[test]
    fn a_chunk_has_openais_members() {
        let print = |choices: &[TextChoice<'_>], usage| {
            let chunk = TextCompletion { head: &head(), choices, usage, timings: None };
            serde_json::to_string(&chunk).expect("plain data")
        };
        let chunk = [TextChoice { index: 1, text: " b", ..TextChoice::default() }];
        insta::assert_snapshot!(print(&chunk, None), @r#"{"id":"cmpl-1","object":"text_completion","created":7,"model":"org/model","system_fingerprint":"v1","choices":[{"index":1,"text":" b","logprobs":null,"finish_reason":null}]}"#);
        insta::assert_snapshot!(print(&chunk, Some(None)), @r#"{"id":"cmpl-1","object":"text_completion","created":7,"model":"org/model","system_fingerprint":"v1","choices":[{"index":1,"text":" b","logprobs":null,"finish_reason":null}],"usage":null}"#);
    }
}
