//! A stream of server-sent events: a beginning, what is said as it comes, an end for each answer, then an end of all; or,
//! after the first byte, exactly one error event and no end of all. A comment at every tick of a wall clock tells the
//! client that we live, also while its job waits. What the events hold is the dialect's.

use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::api::answer::Completion;
use crate::http::error::Problem;
use crate::http::generate::Dialect;
use crate::http::generation::{Generation, Step};
use crate::http::reply::Part;

/// Parts between us and a connection that is slower than the engine; then the client is waited for.
pub(crate) const PARTS_WAITING_MAX: usize = 32;
/// What a frame of one token takes, so that a buffer is allocated once.
const FRAME_BYTES: usize = 512;

/// Writes the stream of one request.
#[derive(Debug)]
pub(crate) struct Stream<D> {
    pub(crate) generation: Generation,
    pub(crate) dialect: D,
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

impl<D: Dialect> Stream<D> {
    /// Runs to the end of the stream, or until the client is gone; either way the generation is dropped then.
    pub(crate) async fn write(mut self, opening: Opening, parts: mpsc::Sender<Part>) {
        let mut ticks = ticks(self.ping);
        let mut completion = Completion::default();
        let mut begun = false;
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
                    if !std::mem::replace(&mut begun, true) {
                        self.dialect.begin_into(&mut frame);
                    }
                    match step {
                        Step::Said { index, said } => self.dialect.said_into(&mut frame, index, &said),
                        Step::Ended { index, ending } => {
                            completion.add(ending.completion);
                            self.dialect.ended_into(&mut frame, index, &ending);
                        }
                        Step::Done => {
                            self.dialect.done_into(&mut frame, self.generation.usage(completion));
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
}

/// The end of all, as OpenAI's streams have it.
pub(crate) fn done_into(frame: &mut BytesMut) {
    frame.extend_from_slice(b"data: [DONE]\n\n");
}

/// One `data:` event. JSON has no line breaks outside strings and escapes those inside, so one line is enough.
pub(crate) fn event_into<T: Serialize>(frame: &mut BytesMut, value: &T) {
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
