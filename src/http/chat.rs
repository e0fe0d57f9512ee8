//! `POST /v1/chat/completions`: from a request to a whole answer or a stream. Until the first event or the first ping a
//! refusal is a status; afterwards it is one error event. The generation is owned by whoever writes the answer, so a
//! client that leaves takes it along.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::api::answer::{ChatCompletion, Completion, FinishReason, Head, Timings};
use crate::api::chat::Delivery;
use crate::api::error::Invalid;
use crate::api::ignored;
use crate::http::collect::Collected;
use crate::http::connection::Peer;
use crate::http::error::Problem;
use crate::http::generation::{Generation, Step};
use crate::http::prepare::{Prepared, prepare};
use crate::http::reply::{self, Body};
use crate::http::sse::{Opening, PARTS_WAITING_MAX, Stream};
use crate::http::{ModelCard, State, body, health};

/// Answers a chat request.
pub(crate) async fn complete(
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
    let prepared = blocking(state, bytes).await?;

    let own = state.settings.times.request;
    let timeout = [prepared.timeout, header_timeout].into_iter().flatten().fold(own, Duration::min);
    let served = state.served.get().expect("checked above; a model is never unloaded");
    let generation = Generation::submit(state, served, &prepared, &peer.scope(), (arrived, arrived + timeout))?;
    let mut response = match prepared.delivery {
        Delivery::Whole => whole(generation, &prepared, &served.card).await?,
        Delivery::Stream { include_usage } => {
            let stream = Stream {
                generation,
                head: answer_head("chat.completion.chunk", &served.card),
                n: prepared.n,
                logprobs: prepared.logprobs,
                include_usage,
                ping: state.settings.times.ping,
                write_stall: state.settings.times.write_stall,
            };
            streamed(state, stream).await?
        }
    };
    announce(&prepared, response.headers_mut());
    Ok(response)
}

/// Parses, renders and encodes on the blocking pool.
async fn blocking(state: &Arc<State>, bytes: bytes::Bytes) -> Result<Prepared, Problem> {
    let shared = Arc::clone(state);
    let work = tokio::task::spawn_blocking(move || {
        let served = shared.served.get().expect("checked before the body was read");
        let capacity = shared.engine.capacity().expect("a model is served only once its capacity is known");
        prepare(&bytes, served, capacity, &shared.settings)
    });
    work.await.unwrap_or_else(|error| {
        tracing::error!(%error, "preparing a request failed");
        Err(Problem::Internal)
    })
}

/// One JSON body, once every answer is complete.
async fn whole(mut generation: Generation, prepared: &Prepared, card: &ModelCard) -> Result<Response<Body>, Problem> {
    let mut answers: Vec<Collected> = (0..prepared.n).map(|_| Collected::default()).collect();
    let mut reasons = vec![FinishReason::Stop; prepared.n as usize];
    let mut completion = Completion::default();
    let mut last: Option<Timings> = None;
    loop {
        match generation.next().await {
            Step::Said { index, pieces, logprobs } => answers[index].add(pieces, logprobs),
            Step::Ended { index, ending } => {
                reasons[index] = ending.reason;
                completion.add(ending.completion);
                last = Some(ending.timings);
            }
            Step::Failed(failure) => return Err(failure.into()),
            Step::Done => break,
        }
    }
    let choices = answers.iter().zip(reasons).enumerate();
    let choices = choices.map(|(index, (answer, reason))| answer.choice(index, reason, prepared.logprobs));
    let answer = ChatCompletion {
        head: &answer_head("chat.completion", card),
        choices: choices.collect(),
        usage: generation.usage(completion),
        timings: last.expect("every answer ended, and n is at least 1"),
    };
    Ok(reply::json(StatusCode::OK, serde_json::to_vec(&answer).expect("an answer is plain data")))
}

/// A stream, once there is something to say: an error before that is still a status.
async fn streamed(state: &State, mut stream: Stream) -> Result<Response<Body>, Problem> {
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
    headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Says in headers what had no effect and what was not understood, so that nothing is silently ignored.
fn announce(prepared: &Prepared, headers: &mut HeaderMap) {
    if let Some(names) = ignored::header_value(&prepared.ignored) {
        let names = HeaderValue::from_str(&names).expect("ignored names are encoded to visible ASCII");
        headers.insert("x-ignored-params", names);
    }
    if prepared.calls_are_content {
        headers.insert("x-sanctum-note", HeaderValue::from_static("this model's tool calls are returned as content"));
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

fn answer_head(object: &'static str, card: &ModelCard) -> Head {
    Head {
        id: format!("chatcmpl-{}", Uuid::new_v4().simple()),
        object,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        model: card.id.clone(),
        system_fingerprint: card.fingerprint.clone(),
    }
}
