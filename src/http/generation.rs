//! The answers of one request while they are generated: token ids in, what they say and endings out. It owns the clocks of
//! the request (queue wait, deadline) and the rule that dropping it cancels everything. What tokens say is `reading`'s, and
//! whether the outcome is streamed is not known here, so streamed and whole answers cannot differ.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::api::answer::{Completion, FinishReason, Timings, Usage};
use crate::engine::handle::{Events, Handle, Refusal};
use crate::http::error::Problem;
use crate::http::prepare::Prepared;
use crate::http::reading::{Reading, Said, Tally};
use crate::http::{Served, State};
use crate::job::{self, Event, Failure, Finish, Finished, Token};
use crate::lifecycle::Lifecycle;
use crate::telemetry::metrics::{FinishLabel, Metrics};

/// The engine refuses a job that waited too long; this much later we do, should the engine not come round to it.
const QUEUE_GRACE: Duration = Duration::from_millis(100);

/// What happened next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// An answer has more to say, or log probabilities of what it said, or ids; never nothing.
    Said { index: usize, said: Said },
    /// An answer is complete.
    Ended { index: usize, ending: Ending },
    /// There is no answer; all choices are gone.
    Failed(Failure),
    /// Every answer is complete.
    Done,
}

/// How one answer ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ending {
    pub(crate) reason: FinishReason,
    pub(crate) completion: Completion,
    pub(crate) timings: Timings,
}

/// All answers of one request. Dropping it cancels those that are not complete.
#[derive(Debug)]
pub(crate) struct Generation {
    choices: Vec<Choice>,
    /// Steps that one event produced and nobody took yet.
    ready: VecDeque<Step>,
    prompts: Vec<PromptTokens>,
    /// Answers to each prompt.
    n: usize,
    arrived: Instant,
    /// No choice has left the queue.
    waits: bool,
    /// No choice has produced a token.
    silent: bool,
    /// Jobs before ours when we were queued.
    position: u32,
    request_deadline: Instant,
    /// Rings at the queue's limit while waiting, at the request's deadline afterwards.
    alarm: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    dead: Pin<Box<WaitForCancellationFutureOwned>>,
    lifecycle: Arc<Lifecycle>,
    engine: Handle,
    metrics: Arc<Metrics>,
}

/// Tokens of one prompt.
#[derive(Debug, Clone, Copy)]
struct PromptTokens {
    all: u32,
    /// Those that its first answer found computed.
    cached: u32,
}

/// One answer.
#[derive(Debug)]
struct Choice {
    /// `None` once it is complete or failed.
    events: Option<Events>,
    /// `None` once its end was taken.
    reading: Option<Reading>,
    /// What it has held so far.
    tally: Tally,
    tokens: u32,
    admitted: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// What can happen to a generation.
enum Happening {
    Event(usize, Event),
    Alarm,
    Cut,
    Dead,
}

impl Generation {
    /// Queues every answer, or none.
    pub(crate) fn submit(
        state: &State,
        served: &Served,
        prepared: &Prepared,
        scope: &Arc<str>,
        (arrived, request_deadline): (Instant, Instant),
    ) -> Result<Self, Problem> {
        let queue_deadline = (arrived + state.settings.times.queue_wait).min(request_deadline);
        let position = state.engine.queue_depth();
        let mut choices = Vec::new();
        for index in 0..prepared.answers() {
            // Only the first answer's wait is the client's: the others may wait for their own siblings.
            let deadline = if index == 0 { queue_deadline } else { request_deadline };
            let job = prepared.job(state.engine.next_id(), scope, index, deadline);
            let events = state.engine.submit(job).map_err(|refusal| refused(state, refusal))?;
            choices.push(Choice::new(events, served, prepared));
        }
        let all = |tokens: usize| u32::try_from(tokens).expect("the context is a u32 of tokens");
        let tokens = prepared.prompts.iter().map(|prompt| prompt.tokens.len());
        let prompts: Vec<PromptTokens> = tokens.map(|tokens| PromptTokens { all: all(tokens), cached: 0 }).collect();
        state.metrics.prompt_tokens.inc_by(prompts.iter().map(|prompt| u64::from(prompt.all)).sum());
        let alarm = (queue_deadline + QUEUE_GRACE).min(request_deadline);
        Ok(Self {
            choices,
            ready: VecDeque::new(),
            prompts,
            n: prepared.n as usize,
            arrived,
            waits: true,
            silent: true,
            position,
            request_deadline,
            alarm: Box::pin(tokio::time::sleep_until(alarm.into())),
            cut: Box::pin(state.lifecycle.drain.cut_token().clone().cancelled_owned()),
            dead: Box::pin(state.lifecycle.dead().clone().cancelled_owned()),
            lifecycle: Arc::clone(&state.lifecycle),
            engine: state.engine.clone(),
            metrics: Arc::clone(&state.metrics),
        })
    }

    /// What happens next; [`Step::Done`] or [`Step::Failed`] is the last. Cancel-safe: all state is in `self`, and
    /// nothing is awaited between taking an event and keeping its outcome.
    pub(crate) async fn next(&mut self) -> Step {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return step;
            }
            if self.choices.iter().all(|choice| choice.events.is_none()) {
                return Step::Done;
            }
            match std::future::poll_fn(|cx| self.poll_happening(cx)).await {
                Happening::Event(index, event) => self.take(index, event),
                Happening::Alarm => self.ring(),
                Happening::Cut => self.fail(Failure::ShuttingDown),
                // The inference thread may hang for ever, so its death is heard from those who watch it.
                Happening::Dead => {
                    let reason = self.lifecycle.phase.reason().unwrap_or_default();
                    self.fail(Failure::EngineDead(reason));
                }
            }
        }
    }

    /// What the request has cost.
    pub(crate) fn usage(&self, completion: Completion) -> Usage {
        let sum =
            |tokens: fn(&PromptTokens) -> u32| self.prompts.iter().map(|prompt| u64::from(tokens(prompt))).sum::<u64>();
        Usage::new(sum(|prompt| prompt.all), sum(|prompt| prompt.cached), completion)
    }

    /// Jobs before ours, while it waits: those that were there at first, and no more than are there now.
    pub(crate) fn queue_position(&self) -> Option<u32> {
        self.waits.then(|| self.position.min(self.engine.queue_depth()))
    }

    fn poll_happening(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        for (index, choice) in self.choices.iter_mut().enumerate() {
            let Some(events) = &mut choice.events else { continue };
            // The channel keeps the waker when this future is dropped.
            if let Poll::Ready(Some(event)) = pin!(events.next()).poll(cx) {
                return Poll::Ready(Happening::Event(index, event));
            }
        }
        if self.dead.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Happening::Dead);
        }
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Happening::Cut);
        }
        self.alarm.as_mut().poll(cx).map(|()| Happening::Alarm)
    }

    fn take(&mut self, index: usize, event: Event) {
        match event {
            Event::Admitted => {
                self.choices[index].admitted = Some(Instant::now());
                self.waits = false;
                self.alarm.as_mut().reset(self.request_deadline.into());
            }
            Event::Prefill { cached_tokens } => {
                self.metrics.prompt_tokens_cached.inc_by(u64::from(cached_tokens));
                // What the others share with the first is no saving for the client: the prompt was evaluated once.
                if index.is_multiple_of(self.n) {
                    self.prompts[index / self.n].cached = cached_tokens;
                }
            }
            Event::Token(token) => self.take_token(index, &token),
            Event::Finished(finished) => self.finish(index, &finished),
            Event::Failed(failure) => self.fail(failure),
        }
    }

    fn take_token(&mut self, index: usize, token: &Token) {
        let now = Instant::now();
        if std::mem::take(&mut self.silent) {
            self.metrics.first_token_seconds.observe((now - self.arrived).as_secs_f64());
        }
        self.metrics.completion_tokens.inc();
        let choice = &mut self.choices[index];
        choice.tokens += 1;
        choice.first_token.get_or_insert(now);
        if let Some(last) = choice.last_token.replace(now) {
            self.metrics.inter_token_seconds.observe((now - last).as_secs_f64());
        }
        let Some(reading) = &mut choice.reading else { return };
        let said = reading.push(token);
        choice.tally = reading.tally();
        if self.say(index, said) {
            self.end(index, FinishReason::Stop, FinishLabel::Stop, None);
        }
    }

    /// The engine ended an answer; what was held back comes out now.
    fn finish(&mut self, index: usize, finished: &Finished) {
        let (mut reason, mut label) = match finished.finish {
            Finish::Stop => (FinishReason::Stop, FinishLabel::Stop),
            Finish::Length => (FinishReason::Length, FinishLabel::Length),
        };
        if self.flush(index) {
            (reason, label) = (FinishReason::Stop, FinishLabel::Stop);
        }
        self.end(index, reason, label, Some(finished));
    }

    /// Lets out what waited for more; says whether it completed a stop string.
    fn flush(&mut self, index: usize) -> bool {
        let choice = &mut self.choices[index];
        let Some(reading) = choice.reading.take() else { return false };
        let (said, tally) = reading.finish();
        choice.tally = tally;
        self.say(index, said)
    }

    /// Passes on what an answer says; whether the answer is over with it.
    fn say(&mut self, index: usize, said: Said) -> bool {
        let ended = said.ended;
        if said.is_something() {
            self.ready.push_back(Step::Said { index, said });
        }
        ended
    }

    /// Completes an answer. Its events are dropped, which cancels a job that still runs.
    fn end(&mut self, index: usize, reason: FinishReason, label: FinishLabel, finished: Option<&Finished>) {
        let prompt = self.prompts[index / self.n];
        let choice = &mut self.choices[index];
        choice.events = None;
        let tokens = finished.map_or(choice.tokens, |finished| finished.usage.completion_tokens);
        let times = finished.map_or_else(|| choice.times(self.arrived), |finished| finished.timings);
        let code = matches!(label, FinishLabel::Deadline).then_some("deadline");
        self.metrics.finished(label);
        if !choice.tally.anything {
            self.metrics.empty_completions.inc();
        }
        let reason = if reason == FinishReason::Stop && choice.tally.calls { FinishReason::ToolCalls } else { reason };
        // The first token belongs to the prefill.
        self.metrics.speed.note(tokens.saturating_sub(1), times.decode);
        let reasoning_tokens = u64::from(choice.tally.reasoning_tokens);
        let completion = Completion { tokens: u64::from(tokens), reasoning_tokens };
        let timings = timings(times, prompt, tokens, code);
        self.ready.push_back(Step::Ended { index, ending: Ending { reason, completion, timings } });
    }

    /// The alarm rang: the queue's limit while we wait, else the request's deadline.
    fn ring(&mut self) {
        if self.waits {
            return self.fail(Failure::QueueTimeout);
        }
        for index in 0..self.choices.len() {
            if self.choices[index].events.is_some() {
                self.flush(index);
                self.end(index, FinishReason::Length, FinishLabel::Deadline, None);
            }
        }
    }

    /// One answer cannot be had, so there is none: half a request is not an answer to it.
    fn fail(&mut self, failure: Failure) {
        let label = match &failure {
            Failure::QueueTimeout => FinishLabel::QueueTimeout,
            Failure::Row(_) => FinishLabel::Failed,
            Failure::EngineDead(_) => FinishLabel::EngineDead,
            Failure::ShuttingDown => FinishLabel::ShuttingDown,
        };
        self.metrics.finished(label);
        self.choices.clear();
        self.ready.clear();
        self.ready.push_back(Step::Failed(failure));
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        for _ in self.choices.iter().filter(|choice| choice.events.is_some()) {
            self.metrics.finished(FinishLabel::ClientDisconnected);
        }
    }
}

impl Choice {
    fn new(events: Events, served: &Served, prepared: &Prepared) -> Self {
        Self {
            events: Some(events),
            reading: Some(Reading::new(&served.text, &prepared.layout, &prepared.stop, prepared.logprobs)),
            tally: Tally::default(),
            tokens: 0,
            admitted: None,
            first_token: None,
            last_token: None,
        }
    }

    /// Where the time went, as seen from here; used when we ended the answer and not the engine.
    fn times(&self, arrived: Instant) -> job::Timings {
        let span = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            (_, _) => Duration::ZERO,
        };
        job::Timings {
            queue: span(Some(arrived), self.admitted),
            prefill: span(self.admitted, self.first_token),
            decode: span(self.first_token, self.last_token),
        }
    }
}

fn refused(state: &State, refusal: Refusal) -> Problem {
    match refusal {
        Refusal::QueueFull { retry_after_seconds } => Problem::QueueFull { retry_after_seconds },
        Refusal::TooLarge { bytes, bytes_max } => Problem::MemoryShort { bytes, bytes_max },
        Refusal::Shortage => Problem::Shortage,
        Refusal::NotReady(phase) => {
            let reason = state.lifecycle.phase.reason();
            Problem::NotReady { phase, reason, retry_after_seconds: state.engine.retry_after_seconds() }
        }
    }
}

fn timings(times: job::Timings, prompt: PromptTokens, completion_tokens: u32, code: Option<&'static str>) -> Timings {
    let rate = |count: u32, time: Duration| if time.is_zero() { 0.0 } else { f64::from(count) / time.as_secs_f64() };
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let each = |count: u32, time: Duration| milliseconds(time) / f64::from(count.max(1));
    // The first token belongs to the prefill.
    let (evaluated, decoded) = (prompt.all - prompt.cached, completion_tokens.saturating_sub(1));
    Timings {
        queue_ms: milliseconds(times.queue),
        cache_n: u64::from(prompt.cached),
        prompt_n: u64::from(evaluated),
        prompt_ms: milliseconds(times.prefill),
        prompt_per_token_ms: each(evaluated, times.prefill),
        prompt_per_second: rate(evaluated, times.prefill),
        predicted_n: u64::from(completion_tokens),
        predicted_ms: milliseconds(times.decode),
        predicted_per_token_ms: each(decoded, times.decode),
        predicted_per_second: rate(decoded, times.decode),
        code,
    }
}
