//! `POST /v1/chat/completions`: how chat spells answers, whole and streamed. What a chunk may hold, and in which order,
//! is decided here; when there is something to say is `generation`'s.

mod prepare;

use bytes::BytesMut;

use crate::api::answer::{
    CallDelta, ChatChunk, ChatCompletion, Choice, ChunkChoice, Delta, FinishReason, FunctionDelta, Head, Logprobs,
    Message, Reasoning, Timings, Usage,
};
use crate::api::chat::ChatRequest;
use crate::api::options::Delivery;
use crate::http::chat::prepare::{Calling, prepare};
use crate::http::collect::{Collected, call_id};
use crate::http::error::Problem;
use crate::http::generate::{Answered, Dialect, answer_head};
use crate::http::generation::Ending;
use crate::http::prepare::{Loaded, Prepared};
use crate::http::reading::Said;
use crate::http::sse::{done_into, event_into};
use crate::text::answer::{CallPiece, Piece};

/// Writes the answers to one chat request.
#[derive(Debug)]
pub(crate) struct Chat {
    head: Head,
    /// Answers asked for.
    n: usize,
    /// What is said goes out with its tokens' log probabilities.
    logprobs: bool,
    /// A last chunk carries the token counts.
    include_usage: bool,
    /// Tools were offered to a model whose way of calling them is not known.
    calls_are_content: bool,
}

impl Dialect for Chat {
    fn prepare(body: &[u8], loaded: &Loaded<'_>) -> Result<(Prepared, Self), Problem> {
        let request = ChatRequest::parse(body, &loaded.bounds())?;
        let (prepared, calling) = prepare(request, loaded)?;
        let (object, include_usage) = match prepared.delivery {
            Delivery::Whole => ("chat.completion", false),
            Delivery::Stream { include_usage } => ("chat.completion.chunk", include_usage),
        };
        let chat = Self {
            head: answer_head("chatcmpl", object, &loaded.served.card),
            n: prepared.n as usize,
            logprobs: prepared.logprobs,
            include_usage,
            calls_are_content: matches!(calling, Calling::Content),
        };
        Ok((prepared, chat))
    }

    fn note(&self) -> Option<&'static str> {
        self.calls_are_content.then_some("this model's tool calls are returned as content")
    }

    fn whole(&self, answered: &Answered) -> Vec<u8> {
        let choices = answered.answers.iter().enumerate();
        let answer = ChatCompletion {
            head: &self.head,
            choices: choices.map(|(index, (answer, reason))| self.choice(index, answer, *reason)).collect(),
            usage: answered.usage,
            timings: answered.timings,
        };
        serde_json::to_vec(&answer).expect("an answer is plain data")
    }

    /// The role of each answer.
    fn begin_into(&self, frame: &mut BytesMut) {
        for index in 0..self.n {
            let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            self.chunk_into(frame, &[ChunkChoice { index, delta, logprobs: None, finish_reason: None }], None);
        }
    }

    /// A chunk for each piece; log probabilities go with the last, or alone.
    fn said_into(&self, frame: &mut BytesMut, index: usize, said: &Said) {
        let all = self.logprobs.then(|| Logprobs::of(&said.logprobs));
        let Some((last, earlier)) = said.pieces.split_last() else {
            let delta = Delta { content: Some(""), ..Delta::default() };
            return self.chunk_into(frame, &[ChunkChoice { index, delta, logprobs: all, finish_reason: None }], None);
        };
        for piece in earlier {
            self.piece_into(frame, index, piece, None);
        }
        self.piece_into(frame, index, last, all);
    }

    fn ended_into(&self, frame: &mut BytesMut, index: usize, ending: &Ending) {
        let (delta, finish_reason) = (Delta::default(), Some(ending.reason));
        self.chunk_into(frame, &[ChunkChoice { index, delta, logprobs: None, finish_reason }], Some(ending.timings));
    }

    fn done_into(&self, frame: &mut BytesMut, usage: Usage) {
        if self.include_usage {
            event_into(frame, &ChatChunk { head: &self.head, choices: &[], usage: Some(Some(usage)), timings: None });
        }
        done_into(frame);
    }
}

impl Chat {
    /// An answer on the wire. Its content is null where there is none because the model called tools, or only thought.
    fn choice<'a>(&self, index: usize, answer: &'a Collected, finish_reason: FinishReason) -> Choice<'a> {
        let Collected { content, reasoning, calls, logprobs, .. } = answer;
        let is_something = !content.is_empty() || (calls.is_empty() && reasoning.is_empty());
        let message = Message {
            role: "assistant",
            content: is_something.then_some(content.as_str()),
            refusal: None,
            reasoning: Some(reasoning.as_str()).filter(|text| !text.is_empty()).map(Reasoning::of),
            tool_calls: calls,
        };
        Choice { index, message, logprobs: self.logprobs.then(|| Logprobs::of(logprobs)), finish_reason }
    }

    fn piece_into(&self, frame: &mut BytesMut, index: usize, piece: &Piece, logprobs: Option<Logprobs<'_>>) {
        let id;
        let delta = match piece {
            Piece::Content(text) => Delta { content: Some(text), ..Delta::default() },
            Piece::Reasoning(text) => Delta { reasoning: Some(Reasoning::of(text)), ..Delta::default() },
            Piece::Call(CallPiece::Begin { index, name }) => {
                id = call_id();
                let function = FunctionDelta { name: Some(name), arguments: "" };
                let call = CallDelta { index: *index, id: Some(&id), kind: Some("function"), function };
                Delta { tool_calls: Some([call]), ..Delta::default() }
            }
            Piece::Call(CallPiece::Arguments { index, text }) => {
                let function = FunctionDelta { name: None, arguments: text };
                let call = CallDelta { index: *index, id: None, kind: None, function };
                Delta { tool_calls: Some([call]), ..Delta::default() }
            }
        };
        self.chunk_into(frame, &[ChunkChoice { index, delta, logprobs, finish_reason: None }], None);
    }

    fn chunk_into(&self, frame: &mut BytesMut, choices: &[ChunkChoice<'_>], timings: Option<Timings>) {
        let usage = self.include_usage.then_some(None);
        event_into(frame, &ChatChunk { head: &self.head, choices, usage, timings });
    }
}
