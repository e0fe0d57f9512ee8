//! A request that generates, whatever API asks: from its body to a whole answer or a stream. Until the first event or the
//! first ping a refusal is a status; afterwards it is one error event. The generation is owned by whoever writes the
//! answer, so a client that leaves takes it along. How an API spells requests and answers is its [`Dialect`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::api::answer::{Completion, FinishReason, Head, Timings, Usage};
use crate::api::error::Invalid;
use crate::api::ignored;
use crate::api::options::Delivery;
use crate::http::collect::Collected;
use crate::http::connection::Peer;
use crate::http::error::Problem;
use crate::http::generation::{Ending, Generation, Step};
use crate::http::prepare::{Loaded, Prepared};
use crate::http::reading::Said;
use crate::http::reply::{self, Body};
use crate::http::sse::{Opening, PARTS_WAITING_MAX, Stream};
use crate::http::{ModelCard, State, body, health};

/// How one API spells a request and its answers. Made with the request; one of it writes all answers to it.
pub(crate) trait Dialect: Send + Sized + 'static {
    /// Reads a request and makes of it what the engine takes. Runs on the blocking pool.
    fn prepare(body: &[u8], loaded: &Loaded<'_>) -> Result<(Prepared, Self), Problem>;

    /// A remark on how the request was understood, for a header.
    fn note(&self) -> Option<&'static str> {
        None
    }

    /// The body of a whole answer.
    fn whole(&self, answered: &Answered) -> Vec<u8>;

    /// What a stream begins with, before anything is said.
    fn begin_into(&self, frame: &mut BytesMut);

    /// An answer says more.
    fn said_into(&self, frame: &mut BytesMut, index: usize, said: &Said);

    /// An answer is complete.
    fn ended_into(&self, frame: &mut BytesMut, index: usize, ending: &Ending);

    /// Every answer is complete.
    fn done_into(&self, frame: &mut BytesMut, usage: Usage);
}

/// All answers to a request, complete.
#[derive(Debug)]
pub(crate) struct Answered {
    /// In the order of their index, each with why it ended.
    pub(crate) answers: Vec<(Collected, FinishReason)>,
    pub(crate) usage: Usage,
    /// Of the answer that ended last.
    pub(crate) timings: Timings,
}

/// Answers a request that generates.
pub(crate) async fn answer<D: Dialect>(
    state: &Arc<State>,
    peer: &Peer,
    head: &Parts,
    body: axum::body::Body,
    arrived: Instant,
) -> Result<Response<Body>, Problem> {
    health::check_answering(state)?;
    let header_timeout = header_timeout(&head.headers)?;
    let limits = &state.settings.limits;
    let bytes = body::read(body, limits.body_bytes, state.settings.times.body).await?;
    // No template is rendered for a job that could not be queued anyway.
    if state.engine.queue_depth() >= limits.queue_jobs {
        return Err(Problem::QueueFull { retry_after_seconds: state.engine.retry_after_seconds() });
    }
    let (prepared, dialect) = blocking(state, bytes, D::prepare).await?;

    let own = state.settings.times.request;
    let timeout = [prepared.timeout, header_timeout].into_iter().flatten().fold(own, Duration::min);
    let served = state.served.get().expect("checked above; a model is never unloaded");
    let generation = Generation::submit(state, served, &prepared, &peer.scope(), (arrived, arrived + timeout))?;
    let note = dialect.note();
    let mut response = match prepared.delivery {
        Delivery::Whole => {
            let answered = whole(generation, prepared.answers() as usize).await?;
            reply::json(StatusCode::OK, dialect.whole(&answered))
        }
        Delivery::Stream { .. } => {
            let (ping, write_stall) = (state.settings.times.ping, state.settings.times.write_stall);
            streamed(state, Stream { generation, dialect, ping, write_stall }).await?
        }
    };
    announce(&prepared.ignored, note, response.headers_mut());
    Ok(response)
}

/// Does on the blocking pool what a body asks of the loaded model.
pub(crate) async fn blocking<R: Send + 'static>(
    state: &Arc<State>,
    bytes: Bytes,
    work: impl FnOnce(&[u8], &Loaded<'_>) -> Result<R, Problem> + Send + 'static,
) -> Result<R, Problem> {
    let shared = Arc::clone(state);
    let work = tokio::task::spawn_blocking(move || {
        let served = shared.served.get().expect("checked before the body was read");
        let capacity = shared.engine.capacity().expect("a model is served only once its capacity is known");
        work(&bytes, &Loaded { served, capacity, settings: &shared.settings })
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "preparing a request failed");
        Err(Problem::Internal)
    })
}

/// Every answer, once all are complete.
async fn whole(mut generation: Generation, count: usize) -> Result<Answered, Problem> {
    let mut answers: Vec<_> = (0..count).map(|_| (Collected::default(), FinishReason::Stop)).collect();
    let mut completion = Completion::default();
    let mut last: Option<Timings> = None;
    loop {
        match generation.next().await {
            Step::Said { index, said } => answers[index].0.add(said),
            Step::Ended { index, ending } => {
                answers[index].1 = ending.reason;
                completion.add(ending.completion);
                last = Some(ending.timings);
            }
            Step::Failed(failure) => return Err(failure.into()),
            Step::Done => break,
        }
    }
    let timings = last.expect("every answer ended, and there is at least one");
    Ok(Answered { answers, usage: generation.usage(completion), timings })
}

/// A stream, once there is something to say: an error before that is still a status.
async fn streamed<D: Dialect>(state: &State, mut stream: Stream<D>) -> Result<Response<Body>, Problem> {
    let opening = tokio::select! {
        biased;
        step = stream.generation.next() => Opening::Step(step),
        () = tokio::time::sleep(stream.ping) => Opening::Ping,
    };
    if let Opening::Step(Step::Failed(failure)) = opening {
        return Err(failure.into());
    }
    let (parts, taken) = mpsc::channel(PARTS_WAITING_MAX);
    state.streams.spawn(stream.write(opening, parts));
    let mut response = Response::new(Body::stream(taken));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Says in headers what had no effect and what was not understood, so that nothing is silently ignored.
pub(crate) fn announce(ignored: &[String], note: Option<&'static str>, headers: &mut HeaderMap) {
    if let Some(names) = ignored::header_value(ignored) {
        let names = HeaderValue::from_str(&names).expect("ignored names are encoded to visible ASCII");
        headers.insert("x-ignored-params", names);
    }
    if let Some(note) = note {
        headers.insert("x-sanctum-note", HeaderValue::from_static(note));
    }
}

/// The deadline that a proxy or a client library sets by header, in seconds.
fn header_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    const NAME: &str = "x-request-timeout";
    let Some(value) = headers.get(NAME) else { return Ok(None) };
    let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
    match seconds.filter(|seconds| (0.001..=86_400.0).contains(seconds)) {
        Some(seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
        None => Err(Invalid::value(NAME, format!("`{NAME}` must be a number of seconds from 0.001 to 86400")).into()),
    }
}

/// What every body of an answer has in common; ids of one API begin alike.
pub(crate) fn answer_head(prefix: &str, object: &'static str, card: &ModelCard) -> Head {
    Head {
        id: format!("{prefix}-{}", Uuid::new_v4().simple()),
        object,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        model: card.id.clone(),
        system_fingerprint: card.fingerprint.clone(),
    }
}
