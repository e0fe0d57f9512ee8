//! S2 and S3: what the host adds to each token and to the first one. A backend that computes nothing stands behind the
//! real engine thread, the real detokeniser and the real stream, so that everything measured is ours.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sanctum_mlx::engine::backend::{Capacity, Memory};
use sanctum_mlx::text::Text;
use serde_json::{Map, json};

use crate::null::{Null, Shared};
use crate::report::Row;
use crate::site::{self, Site};
use crate::stats::percentile;
use crate::support::http::Connection;
use crate::system::Process;
use crate::{stream, tax};

/// Requests flat out, and the tokens of each: a p99 of requests needs a thousand.
const FLAT_REQUESTS: usize = 1_000;
const FLAT_TOKENS: u32 = 256;
/// Requests at a pace, the tokens of each and the time of a step: 5,000 tokens a second, beyond any device we know.
const PACED_REQUESTS: usize = 20;
const PACED_TOKENS: u32 = 1_000;
const PACE: Duration = Duration::from_micros(200);
/// Requests for a first token, on nothing and on the default model.
const FIRST_REQUESTS: usize = 1_000;
const FIRST_REQUESTS_REAL: usize = 25;
/// Requests before anything is measured.
const WARM_UP: usize = 20;
/// Microseconds a token.
const P50_MAX: f64 = 30.0;
const P99_MAX: f64 = 100.0;
const TARGET: &str = "≤ 30 p50, ≤ 100 p99";
/// More than any text here has.
const PROMPT_TOKENS_MAX: u32 = 1_024;
/// What the backend says; every token of it is whole text.
const WORDS: &str = "The quick brown fox jumps over the lazy dog, and then it walks home through the quiet forest \
                     while the evening light falls slowly between the trees and the birds end their songs.";
const QUESTION: &str = "What does the fox do after it has jumped over the dog?";

/// A server whose device takes no time.
struct Nothing {
    site: Site,
    shared: Arc<Shared>,
    connection: Connection,
}

impl Nothing {
    fn start() -> Self {
        let text = site::text();
        let capacity = Capacity {
            context_tokens: 8_192,
            logit_width: 49_152,
            rows_max: 8,
            prefill_chunk_tokens: 2_048,
            memory: Memory::UNCOUNTED,
        };
        let (shared, tokens) = (Shared::new(), plain_tokens(&text));
        let backend = Null::new(tokens, capacity, Arc::clone(&shared));
        let site = Site::start(text, move || Ok(backend));
        let connection = Connection::to(site.address);
        let mut nothing = Self { site, shared, connection };
        for _ in 0..WARM_UP {
            nothing.ask(FLAT_TOKENS);
        }
        nothing
    }

    /// One answer, with the steps that made it.
    fn ask(&mut self, tokens: u32) -> (stream::Streamed, Vec<crate::null::Step>) {
        self.shared.take();
        let answer = stream::ask(&mut self.connection, &stream::body(QUESTION, tokens));
        let steps = self.shared.take();
        assert_eq!(answer.arrivals.len(), tokens as usize, "each token is a piece of text");
        assert_eq!(steps.len(), tokens as usize, "one step a token");
        (answer, steps)
    }
}

/// Ids whose text is whole and not empty, so that a token is an event.
fn plain_tokens(text: &Text) -> Vec<u32> {
    let ids = text.encode(WORDS, PROMPT_TOKENS_MAX).expect("plain words");
    ids.into_iter().filter(|id| !text.end_ids().contains(id) && !text.detokenizer().push(*id).is_empty()).collect()
}

/// S2 in three views: the throughput, the way of one token, and what the engine keeps the device waiting.
pub fn per_token() -> Vec<Row> {
    let mut nothing = Nothing::start();
    let flat = flat_out(&mut nothing);
    nothing.shared.set_pace(PACE);
    let (mut ways, mut gaps) = (Vec::new(), Vec::new());
    for _ in 0..PACED_REQUESTS {
        let (answer, steps) = nothing.ask(PACED_TOKENS);
        ways.extend(answer.arrivals.iter().zip(&steps).map(|(came, step)| microseconds(step.ended, *came)));
        gaps.extend(steps.windows(2).map(|pair| microseconds(pair[0].ended, pair[1].began)));
    }
    let pace = PACE.as_micros();
    let way = format!("end of a step → text in the client's hands, one step per {pace} µs");
    let gap = format!("end of a step → begin of the next, one step per {pace} µs");
    vec![flat, row("S2 way", way, &mut ways, json!({})), row("S2 gap", gap, &mut gaps, json!({}))]
}

/// The engine produces as fast as it can; what a token costs is the wall time from the first step to the last text.
fn flat_out(nothing: &mut Nothing) -> Row {
    let mut samples = Vec::new();
    let before = Process::this().runs();
    for _ in 0..FLAT_REQUESTS {
        let (answer, steps) = nothing.ask(FLAT_TOKENS);
        let last = *answer.arrivals.last().expect("counted");
        samples.push(microseconds(steps[0].ended, last) / f64::from(FLAT_TOKENS));
    }
    let tokens = (FLAT_REQUESTS * FLAT_TOKENS as usize) as f64;
    let run = |name: &str| {
        let sum = |runs: &[(String, f64)]| runs.iter().filter(|run| run.0 == name).map(|run| run.1).sum::<f64>();
        (sum(&Process::this().runs()) - sum(&before)) / tokens / 1e3
    };
    let (engine, workers) = (run("inference"), run("worker"));
    eprintln!("S2: processor time a token: engine {engine:.1} µs, workers {workers:.1} µs");
    let what = format!("wall ÷ tokens of {FLAT_REQUESTS} requests of {FLAT_TOKENS}, null engine flat out");
    row("S2", what, &mut samples, json!({"engine_cpu_us": engine, "worker_cpu_us": workers}))
}

fn row(id: &'static str, what: String, samples: &mut [f64], more: serde_json::Value) -> Row {
    let (p50, p99) = (percentile(samples, 0.5), percentile(samples, 0.99));
    Row {
        id,
        what,
        measured: format!("{p50:.1} µs p50, {p99:.1} p99, n = {}", samples.len()),
        target: TARGET,
        met: Some(p50 <= P50_MAX && p99 <= P99_MAX),
        figures: json!({"p50_us": p50, "p99_us": p99, "n": samples.len(), "more": more}),
    }
}

/// S3 on nothing, where nothing hides it, and on the default model.
pub fn first_token() -> Vec<Row> {
    let mut nothing = Nothing::start();
    let Nothing { site, connection, .. } = &mut nothing;
    let null = first("S3 null", "null engine", site, connection, FIRST_REQUESTS);
    drop(nothing);
    let site = tax::start();
    let mut connection = Connection::to(site.address);
    stream::ask(&mut connection, &stream::body(QUESTION, 2));
    vec![first("S3", "default model", &site, &mut connection, FIRST_REQUESTS_REAL), null]
}

fn first(id: &'static str, who: &str, site: &Site, connection: &mut Connection, requests: usize) -> Row {
    let (mut over, mut tokenise, mut prefill) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..requests {
        let begun = Instant::now();
        site.text
            .prompt(&stream::messages(QUESTION), None, &Map::new(), PROMPT_TOKENS_MAX)
            .expect("the template renders it");
        let encoded = begun.elapsed().as_secs_f64() * 1e3;
        let answer = stream::ask(connection, &stream::body(QUESTION, 2));
        let evaluated = answer.timing("prompt_ms");
        over.push(answer.first().as_secs_f64() * 1e3 - encoded - evaluated);
        tokenise.push(encoded);
        prefill.push(evaluated);
    }
    let (p50, p90) = (percentile(&mut over, 0.5), percentile(&mut over, 0.9));
    let (tokenise, prefill) = (percentile(&mut tokenise, 0.5), percentile(&mut prefill, 0.5));
    Row {
        id,
        what: format!("TTFT − (tokenise + prefill), {who}, {requests} requests"),
        measured: format!("{p50:.2} ms p50, {p90:.2} p90; tokenise {tokenise:.2}, prefill {prefill:.2}"),
        target: "≤ 2 ms p50",
        met: Some(p50 <= 2.0),
        figures: json!({"p50_ms": p50, "p90_ms": p90, "tokenise_ms": tokenise, "prefill_ms": prefill, "n": requests}),
    }
}

fn microseconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e6
}
