//! `GET /`: one page for a person: the model, whether it answers, what it is doing, and a box to try a prompt. Everything
//! is in it, so it loads nothing from anywhere, and the facts are written by the server, so it can be read without a
//! script. What cannot answer is a 503 here too, with the page: a monitor that looks at nothing else is not deceived.

use std::sync::OnceLock;

use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use uuid::Uuid;

use crate::api::models::{Health, SelfProbeState};
use crate::http::connection::Doorway;
use crate::http::reply::{self, Body};
use crate::http::{State, health};

/// The page's source; what is filled in is escaped, as its name ends with `.html`.
const NAME: &str = "page.html";

/// What the page is filled with.
#[derive(Serialize)]
struct Page {
    health: Health,
    answering: bool,
    words: Words,
    /// Where the person has found us: scheme and host.
    origin: String,
    /// Names the page's own script and style; no other runs.
    nonce: String,
}

/// Facts in words.
#[derive(Serialize)]
struct Words {
    queue: String,
    speed: String,
    step: String,
    probe: String,
    watchers: String,
    memory: String,
    executable: String,
    uptime: String,
}

/// The page.
pub(crate) fn page(state: &State, doorway: Doorway, head: &Parts) -> Response<Body> {
    let answering = health::check_answering(state).is_ok();
    let health = health::health(state);
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = Page { words: Words::of(&health), health, answering, origin: origin(doorway, head), nonce };
    let status = if answering { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = reply::typed(status, "text/html; charset=utf-8", written(&page));
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy).expect("the policy is ASCII"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// HTTP/1.1 names the host in a header, HTTP/2 in the request line.
fn origin(doorway: Doorway, head: &Parts) -> String {
    let scheme = if doorway == Doorway::Tls { "https" } else { "http" };
    let named = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| head.uri.authority().map(|host| host.as_str())).unwrap_or("localhost");
    format!("{scheme}://{host}")
}

fn written(page: &Page) -> String {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    let environment = ENVIRONMENT.get_or_init(|| {
        let mut environment = Environment::new();
        environment.add_template(NAME, include_str!("page.html")).expect("our own template is valid");
        environment
    });
    let template = environment.get_template(NAME).expect("it was added");
    template.render(Serde(page)).expect("our own template knows its variables")
}

impl Words {
    fn of(health: &Health) -> Self {
        let engine = &health.engine;
        Self {
            queue: match engine.queue_depth {
                0 => "empty".to_owned(),
                waiting => format!("{waiting} waiting, the oldest for {}", time(engine.queue_oldest_age_seconds)),
            },
            speed: health.last_answer_tokens_per_second.map_or_else(
                || "no answer yet".to_owned(),
                |speed| format!("{speed:.1} tokens a second in the last answer"),
            ),
            step: format!("{} ago", time(engine.last_step_age_seconds)),
            probe: health.last_self_probe.map_or_else(|| "none needed yet".to_owned(), probe),
            watchers: watchers(health),
            memory: format!(
                "{} in use, {} kept for reuse, {} at most so far",
                bytes(health.memory.active_bytes),
                bytes(health.memory.cache_bytes),
                bytes(health.memory.peak_bytes)
            ),
            executable: health.binary_wrong.clone().unwrap_or_else(|| "as it was started".to_owned()),
            uptime: time(health.uptime_seconds),
        }
    }
}

fn probe(last: SelfProbeState) -> String {
    let SelfProbeState { age_seconds, outcome, milliseconds, misses } = last;
    let missed = if misses == 0 { String::new() } else { format!(", {misses} missed in a row") };
    format!("{outcome} after {milliseconds} ms, {} ago{missed}", time(age_seconds))
}

fn watchers(health: &Health) -> String {
    let ages = health.companion_age_seconds.iter();
    let ages: Vec<String> = ages.map(|(name, age)| format!("{name} {} ago", time(*age))).collect();
    if ages.is_empty() { "none has looked".to_owned() } else { ages.join(", ") }
}

/// A time as a person says it.
fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3_600 % 24),
    }
}

fn bytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_two_units_at_most() {
        let check = |seconds: f64, said: &str| assert_eq!(time(seconds), said);
        check(0.25, "0.2 s");
        check(59.0, "59.0 s");
        check(61.9, "1 min 1 s");
        check(7_260.0, "2 h 1 min");
        check(90_000.0, "1 d 1 h");
    }
}
