//! A stream of server-sent events: the role first, text as it comes, an end for each answer, usage if asked for, then
//! `[DONE]`; or, after the first byte, exactly one error event and no `[DONE]`. A comment at every tick of a wall clock
//! tells the client that we live, also while its job waits.

use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::api::answer::{
    CallDelta, ChatChunk, ChunkChoice, Completion, Delta, FinishReason, FunctionDelta, Head, Logprobs, Reasoning,
    Timings, TokenLogprob,
};
use crate::http::collect::call_id;
use crate::http::error::Problem;
use crate::http::generation::{Generation, Step};
use crate::http::reply::Part;
use crate::text::answer::{CallPiece, Piece};

/// Parts between us and a connection that is slower than the engine; then the client is waited for.
pub(crate) const PARTS_WAITING_MAX: usize = 32;
/// What a frame of one token takes, so that a buffer is allocated once.
const FRAME_BYTES: usize = 512;

/// Writes the stream of one request.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) generation: Generation,
    pub(crate) head: Head,
    /// Answers asked for.
    pub(crate) n: u32,
    /// What is said goes out with its tokens' log probabilities.
    pub(crate) logprobs: bool,
    /// A last chunk carries the token counts.
    pub(crate) include_usage: bool,
    /// Between two pings.
    pub(crate) ping: Duration,
    /// How long one frame may wait for the client.
    pub(crate) write_stall: Duration,
}

/// With what a stream begins: headers go out with the first event or the first ping, whichever is first.
#[derive(Debug)]
pub(crate) enum Opening {
    Step(Step),
    Ping,
}

impl Stream {
    /// Runs to the end of the stream, or until the client is gone; either way the generation is dropped then.
    pub(crate) async fn write(mut self, opening: Opening, parts: mpsc::Sender<Part>) {
        let mut ticks = ticks(self.ping);
        let mut completion = Completion::default();
        let mut told_role = false;
        let mut next = opening;
        loop {
            let mut frame = BytesMut::with_capacity(FRAME_BYTES);
            let mut is_last = false;
            match next {
                Opening::Ping => self.ping_into(&mut frame),
                Opening::Step(Step::Failed(failure)) => {
                    frame.extend_from_slice(b"data: ");
                    frame.extend_from_slice(&Problem::Failed(failure).envelope());
                    frame.extend_from_slice(b"\n\n");
                    is_last = true;
                }
                Opening::Step(step) => {
                    if !std::mem::replace(&mut told_role, true) {
                        self.roles_into(&mut frame);
                    }
                    match step {
                        Step::Said { index, pieces, logprobs } => self.said_into(&mut frame, index, &pieces, &logprobs),
                        Step::Ended { index, ending } => {
                            completion.add(ending.completion);
                            self.end_into(&mut frame, index, ending.reason, ending.timings);
                        }
                        Step::Done => {
                            self.done_into(&mut frame, completion);
                            is_last = true;
                        }
                        Step::Failed(_) => unreachable!("failures are matched above"),
                    }
                }
            }
            let frame = frame.freeze();
            let part = if is_last { Part::Last(frame) } else { Part::More(frame) };
            // A client that takes nothing, or has left, ends the stream; dropping the generation cancels its jobs.
            let sent = tokio::time::timeout(self.write_stall, parts.send(part)).await;
            if is_last || !matches!(sent, Ok(Ok(()))) {
                return;
            }
            next = tokio::select! {
                biased;
                () = parts.closed() => return,
                step = self.generation.next() => Opening::Step(step),
                _ = ticks.tick() => Opening::Ping,
            };
        }
    }

    fn ping_into(&self, frame: &mut BytesMut) {
        match self.generation.queue_position() {
            Some(position) => frame.extend_from_slice(format!(": queued, {position} before this one\n\n").as_bytes()),
            None => frame.extend_from_slice(b": ping\n\n"),
        }
    }

    fn roles_into(&self, frame: &mut BytesMut) {
        for index in 0..self.n as usize {
            let delta = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            self.chunk_into(frame, &[ChunkChoice { index, delta, logprobs: None, finish_reason: None }], None);
        }
    }

    /// A chunk for each piece; log probabilities go with the last, or alone.
    fn said_into(&self, frame: &mut BytesMut, index: usize, pieces: &[Piece], logprobs: &[TokenLogprob]) {
        let all = self.logprobs.then(|| Logprobs::of(logprobs));
        let Some((last, earlier)) = pieces.split_last() else {
            let delta = Delta { content: Some(""), ..Delta::default() };
            return self.chunk_into(frame, &[ChunkChoice { index, delta, logprobs: all, finish_reason: None }], None);
        };
        for piece in earlier {
            self.piece_into(frame, index, piece, None);
        }
        self.piece_into(frame, index, last, all);
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

    fn end_into(&self, frame: &mut BytesMut, index: usize, reason: FinishReason, timings: Timings) {
        let (delta, finish_reason) = (Delta::default(), Some(reason));
        self.chunk_into(frame, &[ChunkChoice { index, delta, logprobs: None, finish_reason }], Some(timings));
    }

    fn done_into(&self, frame: &mut BytesMut, completion: Completion) {
        if self.include_usage {
            let usage = self.generation.usage(completion);
            event_into(frame, &ChatChunk { head: &self.head, choices: &[], usage: Some(Some(usage)), timings: None });
        }
        frame.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn chunk_into(&self, frame: &mut BytesMut, choices: &[ChunkChoice<'_>], timings: Option<Timings>) {
        let usage = self.include_usage.then_some(None);
        event_into(frame, &ChatChunk { head: &self.head, choices, usage, timings });
    }
}

/// One `data:` event. JSON has no line breaks outside strings and escapes those inside, so one line is enough.
fn event_into<T: Serialize>(frame: &mut BytesMut, value: &T) {
    frame.extend_from_slice(b"data: ");
    serde_json::to_writer(Writer(frame), value).expect("chunks are plain data and a buffer takes every byte");
    frame.extend_from_slice(b"\n\n");
}

/// A buffer as `io::Write`.
struct Writer<'a>(&'a mut BytesMut);

impl std::io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The wall clock of the pings; a tick that was missed is not caught up.
fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
