//! `POST /v1/chat/completions`, the answer: one object, or chunks of a stream. It owns the order and the presence of
//! members, which the SDKs look at; what the values are is decided elsewhere.

use serde::Serialize;

/// Why an answer ended, in OpenAI's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its answer, or a stop string was met.
    Stop,
    /// A limit of tokens or of time was reached.
    Length,
    /// The model ended its answer, which holds calls of tools.
    ToolCalls,
}

/// Token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// What is known about the prompt's tokens.
    pub prompt_tokens_details: PromptTokens,
    /// What is known about the answers' tokens.
    pub completion_tokens_details: CompletionTokens,
}

/// What is known about the prompt's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptTokens {
    /// Tokens that a cache spared us.
    pub cached_tokens: u64,
}

/// What is known about the answers' tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CompletionTokens {
    /// Tokens of thoughts, with what closes them.
    pub reasoning_tokens: u64,
}

/// Tokens of all answers of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Completion {
    /// All of them.
    pub tokens: u64,
    /// Those of thoughts.
    pub reasoning_tokens: u64,
}

impl Completion {
    /// Those of one answer more.
    pub fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.reasoning_tokens += other.reasoning_tokens;
    }
}

impl Usage {
    /// Counts of a request.
    #[must_use]
    pub fn new(prompt_tokens: u64, cached_tokens: u64, completion: Completion) -> Self {
        Self {
            prompt_tokens,
            completion_tokens: completion.tokens,
            total_tokens: prompt_tokens + completion.tokens,
            prompt_tokens_details: PromptTokens { cached_tokens },
            completion_tokens_details: CompletionTokens { reasoning_tokens: completion.reasoning_tokens },
        }
    }
}

/// Where the time went, as llama-server gives it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Timings {
    /// Milliseconds in the queue.
    pub queue_ms: f64,
    /// Prompt tokens that a cache spared us.
    pub cache_n: u64,
    /// Prompt tokens evaluated.
    pub prompt_n: u64,
    /// Milliseconds from admission to the first token.
    pub prompt_ms: f64,
    /// Milliseconds a prompt token.
    pub prompt_per_token_ms: f64,
    /// Prompt tokens per second.
    pub prompt_per_second: f64,
    /// Tokens generated.
    pub predicted_n: u64,
    /// Milliseconds from the first token to the last.
    pub predicted_ms: f64,
    /// Milliseconds a token after the first.
    pub predicted_per_token_ms: f64,
    /// Tokens generated per second after the first.
    pub predicted_per_second: f64,
    /// `deadline` when the request's own time limit ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

/// What every body of one request has in common.
#[derive(Debug, Clone, Serialize)]
pub struct Head {
    /// Same in every chunk of one answer.
    pub id: String,
    /// What the body is.
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The id of the model that answered.
    pub model: String,
    /// Version, model revision and quantisation.
    pub system_fingerprint: String,
}

/// A whole answer.
#[derive(Debug, Clone, Serialize)]
pub struct ChatCompletion<'a> {
    /// Shared members.
    #[serde(flatten)]
    pub head: &'a Head,
    /// The answers, in the order of their index.
    pub choices: Vec<Choice<'a>>,
    /// Token counts.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// One whole answer.
#[derive(Debug, Clone, Serialize)]
pub struct Choice<'a> {
    /// From 0 to n − 1.
    pub index: usize,
    /// What was said.
    pub message: Message<'a>,
    /// Log probabilities, if asked for.
    pub logprobs: Option<Logprobs<'a>>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// What was said.
#[derive(Debug, Clone, Serialize)]
pub struct Message<'a> {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text; null where there is none because the model called tools, or only thought.
    pub content: Option<&'a str>,
    /// Always null: this server does not refuse in a channel of its own.
    pub refusal: Option<()>,
    /// What the model thought.
    #[serde(flatten)]
    pub reasoning: Option<Reasoning<'a>>,
    /// The calls, in their order; absent without any.
    #[serde(skip_serializing_if = "<[ToolCall]>::is_empty")]
    pub tool_calls: &'a [ToolCall],
}

/// What the model thought, or more of it, by both names that clients look for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reasoning<'a> {
    reasoning_content: &'a str,
    reasoning: &'a str,
}

impl<'a> Reasoning<'a> {
    /// Of this text.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        Self { reasoning_content: text, reasoning: text }
    }
}

/// A whole call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ToolCall {
    /// Names it in the message that brings its result.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What is called.
    pub function: Function,
}

/// What is called, and with what.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Function {
    /// The tool's name.
    pub name: String,
    /// The JSON text of an object, as the model wrote it.
    pub arguments: String,
}

/// Log probabilities of an answer, or of a part of it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Logprobs<'a> {
    /// One entry a token.
    pub content: &'a [TokenLogprob],
    /// Always null: this server does not refuse in a channel of its own.
    pub refusal: Option<()>,
}

impl<'a> Logprobs<'a> {
    /// Of these tokens.
    #[must_use]
    pub fn of(content: &'a [TokenLogprob]) -> Self {
        Self { content, refusal: None }
    }
}

/// A token of an answer with its log probability.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The token.
    #[serde(flatten)]
    pub token: Likely,
    /// The likeliest tokens in its place, the likeliest first.
    pub top_logprobs: Vec<Likely>,
    /// Characters of the answer's text before it; not told here.
    #[serde(skip)]
    pub offset: usize,
}

/// A token and its natural log probability, before the temperature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Likely {
    /// Its text; bytes that are no text are shown as U+FFFD.
    pub token: String,
    /// At least [`LOGPROB_MIN`], which stands for what cannot come.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What OpenAI's API says of tokens that are as good as impossible; JSON has no infinity.
pub const LOGPROB_MIN: f32 = -9999.0;

/// One event of a stream.
#[derive(Debug, Clone, Serialize)]
pub struct ChatChunk<'a> {
    /// Shared members.
    #[serde(flatten)]
    pub head: &'a Head,
    /// One changed answer, or none in the chunk that carries usage.
    pub choices: &'a [ChunkChoice<'a>],
    /// Absent unless asked for; then null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// On the chunk that ends an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// What changed in one answer.
#[derive(Debug, Clone, Serialize)]
pub struct ChunkChoice<'a> {
    /// From 0 to n − 1.
    pub index: usize,
    /// The new part.
    pub delta: Delta<'a>,
    /// Log probabilities, if asked for.
    pub logprobs: Option<Logprobs<'a>>,
    /// Set on the last chunk of this answer.
    pub finish_reason: Option<FinishReason>,
}

/// The new part of an answer.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Delta<'a> {
    /// `assistant`, on the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    /// More of what the model thinks.
    #[serde(flatten)]
    pub reasoning: Option<Reasoning<'a>>,
    /// A call, or more of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[CallDelta<'a>; 1]>,
}

/// A call that begins, with its id and name, or more of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CallDelta<'a> {
    /// Its place among the answer's calls.
    pub index: usize,
    /// On its first delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// `function`, on its first delta.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What is new of the function.
    pub function: FunctionDelta<'a>,
}

/// What is new of a function that is called.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FunctionDelta<'a> {
    /// The tool, on the call's first delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// More of the arguments; empty on the call's first delta.
    pub arguments: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(object: &'static str) -> Head {
        let (id, model, print) = ("chatcmpl-1".to_owned(), "org/model".to_owned(), "v1".to_owned());
        Head { id, object, created: 7, model, system_fingerprint: print }
    }

    const COMPLETION: Completion = Completion { tokens: 2, reasoning_tokens: 1 };
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
        let head = head("chat.completion");
        let message =
            Message { role: "assistant", content: Some("Paris."), refusal: None, reasoning: None, tool_calls: &[] };
        let choice = Choice { index: 0, message, logprobs: None, finish_reason: FinishReason::Stop };
        let answer = ChatCompletion {
            head: &head,
            choices: vec![choice],
            usage: Usage::new(3, 1, COMPLETION),
            timings: TIMINGS,
        };
        insta::assert_snapshot!(serde_json::to_string_pretty(&answer).expect("plain data"), @r#"
        {
          "id": "chatcmpl-1",
          "object": "chat.completion",
          "created": 7,
          "model": "org/model",
          "system_fingerprint": "v1",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "Paris.",
                "refusal": null
              },
              "logprobs": null,
              "finish_reason": "stop"
            }
          ],
          "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {
              "cached_tokens": 1
            },
            "completion_tokens_details": {
              "reasoning_tokens": 1
            }
          },
          "timings": {
            "queue_ms": 0.5,
            "cache_n": 1,
            "prompt_n": 2,
            "prompt_ms": 1.0,
            "prompt_per_token_ms": 0.5,
            "prompt_per_second": 2000.0,
            "predicted_n": 2,
            "predicted_ms": 10.0,
            "predicted_per_token_ms": 10.0,
            "predicted_per_second": 100.0
          }
        }
        "#);
    }

    #[test]
    fn chunks_have_openais_members() {
        let head = head("chat.completion.chunk");
        let print = |choices: &[ChunkChoice<'_>], usage, timings| {
            serde_json::to_string(&ChatChunk { head: &head, choices, usage, timings }).expect("plain data")
        };
        let chunk = |delta, finish_reason| [ChunkChoice { index: 0, delta, logprobs: None, finish_reason }];
        let first = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
        insta::assert_snapshot!(print(&chunk(first, None), None, None), @r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"org/model","system_fingerprint":"v1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#);
        let text = Delta { content: Some("Par\"is\n"), ..Delta::default() };
        insta::assert_snapshot!(print(&chunk(text, None), Some(None), None), @r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"org/model","system_fingerprint":"v1","choices":[{"index":0,"delta":{"content":"Par\"is\n"},"logprobs":null,"finish_reason":null}],"usage":null}"#);
        let code = Some("deadline");
        let last = print(&chunk(Delta::default(), Some(FinishReason::Length)), None, Some(Timings { code, ..TIMINGS }));
        insta::assert_snapshot!(last, @r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"org/model","system_fingerprint":"v1","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"timings":{"queue_ms":0.5,"cache_n":1,"prompt_n":2,"prompt_ms":1.0,"prompt_per_token_ms":0.5,"prompt_per_second":2000.0,"predicted_n":2,"predicted_ms":10.0,"predicted_per_token_ms":10.0,"predicted_per_second":100.0,"code":"deadline"}}"#);
        insta::assert_snapshot!(print(&[], Some(Some(Usage::new(3, 1, COMPLETION))), None), @r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"org/model","system_fingerprint":"v1","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens_details":{"reasoning_tokens":1}}}"#);
    }

    #[test]
    fn thoughts_and_calls_have_openais_members() {
        let call = ToolCall {
            id: "call_1".to_owned(),
            kind: "function",
            function: Function { name: "f".to_owned(), arguments: "{\"a\": 1}".to_owned() },
        };
        let (reasoning, calls) = (Some(Reasoning::of("hm")), [call]);
        let message = Message { role: "assistant", content: None, refusal: None, reasoning, tool_calls: &calls };
        insta::assert_snapshot!(serde_json::to_string(&message).expect("plain data"), @r#"{"role":"assistant","content":null,"refusal":null,"reasoning_content":"hm","reasoning":"hm","tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}}]}"#);
        let thought = Delta { reasoning: Some(Reasoning::of("h")), ..Delta::default() };
        insta::assert_snapshot!(serde_json::to_string(&thought).expect("plain data"), @r#"{"reasoning_content":"h","reasoning":"h"}"#);
        let delta = |id, kind, name, arguments| {
            let function = FunctionDelta { name, arguments };
            let delta = Delta { tool_calls: Some([CallDelta { index: 0, id, kind, function }]), ..Delta::default() };
            serde_json::to_string(&delta).expect("plain data")
        };
        insta::assert_snapshot!(delta(Some("call_1"), Some("function"), Some("f"), ""), @r#"{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}"#);
        insta::assert_snapshot!(delta(None, None, None, "{\"a"), @r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a"}}]}"#);
    }
}
