//! One job being generated: what it has produced, when it ends and the way back to its reader. It owns the rule that a
//! job gets exactly one terminal event; it refuses to know what computes the tokens.

use std::time::Instant;

use crate::engine::backend::{Decoded, RowId};
use crate::engine::channel::{EventSender, Left};
use crate::engine::command::Submission;
use crate::engine::scheduler::RowView;
use crate::job::{Event, Failure, Finish, Finished, Job, Timings, Token, Usage};

/// What one step did to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The row goes on.
    Goes,
    /// The row sent its terminal event, or its reader has left; it must be closed.
    Ended,
}

/// An admitted job.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name at the backend.
    pub(crate) id: RowId,
    /// What was asked for; its prompt is at the backend by now.
    job: Job,
    /// Room for every event the job can produce; taken by the terminal event.
    events: Option<EventSender>,
    /// Prompt tokens not yet evaluated.
    pub(crate) prompt_left: u32,
    /// Nothing was asked of the backend yet.
    begins: bool,
    /// Tokens produced, a stop token included.
    produced: u32,
    /// When the job was accepted, admitted, and gave its first token.
    accepted: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
}

impl Row {
    /// Admits a waiting job and tells its reader.
    pub(crate) fn admit(id: RowId, submission: Submission) -> Self {
        let Submission { job, events, place, accepted, accepted_ms: _ } = submission;
        // Whoever is told finds the place free.
        drop(place);
        // A reader that has left is found by `is_cancelled` before any work is spent.
        let _ = events.send(Event::Admitted);
        let prompt_left = u32::try_from(job.prompt.len()).expect("the prompt fits the context, which is a u32");
        Self {
            id,
            job,
            events: Some(events),
            prompt_left,
            begins: true,
            produced: 0,
            accepted,
            admitted: Instant::now(),
            first_token: None,
        }
    }

    /// Whether its prompt was not begun.
    pub(crate) fn begins(&self) -> bool {
        self.begins
    }

    /// So many of the prompt's first tokens are there already.
    pub(crate) fn begin(&mut self, cached_tokens: u32) {
        assert!(cached_tokens < self.prompt_left, "something of a prompt is always evaluated");
        self.begins = false;
        self.prompt_left -= cached_tokens;
        if let Some(events) = &self.events {
            // As in `admit`.
            let _ = events.send(Event::Prefill { cached_tokens });
        }
    }

    /// What is asked for.
    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// What the scheduler sees.
    pub(crate) fn view(&self) -> RowView {
        RowView { row: self.id, prompt_left: self.prompt_left }
    }

    /// Whether the reader has left.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.events.as_ref().is_none_or(EventSender::is_closed)
    }

    /// How long the row has been open.
    pub(crate) fn open_for(&self) -> std::time::Duration {
        self.admitted.elapsed()
    }

    /// Takes what a decode step produced.
    pub(crate) fn take(&mut self, decoded: Decoded) -> Outcome {
        match decoded {
            Decoded::Failed(reason) => {
                self.end(Event::Failed(Failure::Row(reason)));
                Outcome::Ended
            }
            Decoded::Tokens(tokens) => {
                assert!(!tokens.is_empty(), "a step gives a row a token");
                // Behind its end a row has no tokens, whatever the step has computed there.
                let ended = tokens.into_iter().any(|token| self.take_token(token) == Outcome::Ended);
                if ended { Outcome::Ended } else { Outcome::Goes }
            }
        }
    }

    fn take_token(&mut self, token: Token) -> Outcome {
        assert!(self.prompt_left == 0, "a row decodes only when its prompt is complete");
        assert!(self.produced < self.job.limits.tokens_max, "a row that reached its limit was closed");
        self.first_token.get_or_insert_with(Instant::now);
        self.produced += 1;
        if self.job.limits.stop_tokens.contains(&token.id) {
            self.finish(Finish::Stop);
            return Outcome::Ended;
        }
        let Some(events) = &self.events else { return Outcome::Ended };
        if events.send(Event::Token(token)) == Err(Left) {
            return Outcome::Ended;
        }
        if self.produced == self.job.limits.tokens_max {
            self.finish(Finish::Length);
            return Outcome::Ended;
        }
        Outcome::Goes
    }

    fn finish(&mut self, finish: Finish) {
        let now = Instant::now();
        let first = self.first_token.unwrap_or(now);
        let usage = Usage {
            prompt_tokens: u32::try_from(self.job.prompt.len()).expect("checked when the row was admitted"),
            completion_tokens: self.produced,
        };
        let timings = Timings {
            queue: self.admitted.duration_since(self.accepted),
            prefill: first.duration_since(self.admitted),
            decode: now.duration_since(first),
        };
        self.end(Event::Finished(Finished { finish, usage, timings }));
    }

    /// Sends the terminal event; the sender goes with it, so there is no second one.
    pub(crate) fn end(&mut self, event: Event) {
        debug_assert!(matches!(event, Event::Finished(_) | Event::Failed(_)));
        let Some(events) = self.events.take() else { return };
        #[cfg(feature = "fault")]
        if crate::engine::fault::lose_this_terminal_event() {
            return;
        }
        // The reader may have left; then there is nobody to tell.
        let _ = events.send(event);
    }
}
