//! S9: how soon a row ends whose client has reset its connection, and what is computed for it after that. The server is in
//! this process, so that client and engine read the same clock.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::effort::Effort;
use crate::report::Row;
use crate::site::{self, Site};
use crate::stats::{median, percentile};
use crate::support::eventually;
use crate::support::http::Connection;
use crate::watched::{Record, Watched};
use crate::{stream, tax};

/// Clients that leave; a 99th percentile of fewer than 1,000 is their worst, and is told as that.
const TRIALS: usize = 200;
/// Of the answer that none of them waits for.
const TOKENS: u32 = 2_000;
/// Pieces of text that each reads before it leaves; different ones leave at different moments of a step.
const PIECES_MIN: usize = 3;
const PIECES_SPREAD: usize = 5;
/// Steps that may begin for a client that has left.
const STEPS_MAX: usize = 1;
const QUESTION: &str = "Tell me a very long story about a lighthouse.";

pub fn rows(effort: Effort) -> Vec<Row> {
    let record = Record::default();
    let shared = Arc::clone(&record);
    let site = Site::start(site::text(), move || Ok(Watched::new(tax::load()?, shared)));
    let (mut times, mut steps) = (Vec::new(), Vec::new());
    for trial in 0..effort.of(TRIALS, 3) {
        let (time, after) = leave(&site, &record, PIECES_MIN + trial % PIECES_SPREAD);
        times.push(time);
        steps.push(after);
    }
    let (p50, max) = (median(&mut times), percentile(&mut times, 1.0));
    let most = *steps.iter().max().expect("there are trials");
    let some = steps.iter().filter(|steps| **steps > 0).count();
    vec![Row {
        id: "S9",
        what: format!("RST → slot free, one stream, {} clients leave", steps.len()),
        measured: format!("{p50:.1} ms p50, {max:.1} max; steps begun after it: {most} at most, any in {some}"),
        target: "≤ 1 step",
        met: effort.verdict(most <= STEPS_MAX),
        figures: json!({"p50_ms": p50, "max_ms": max, "steps_max": most, "trials": steps.len(), "trials_with_steps": some}),
    }]
}

/// A client that reads some of its answer and resets the connection: milliseconds until its row was closed, and steps that
/// began in between.
fn leave(site: &Site, record: &Record, pieces: usize) -> (f64, usize) {
    std::mem::take(&mut *record.lock().expect("nobody panics with it"));
    let mut connection = Connection::to(site.address);
    connection.send_chat(&stream::body(QUESTION, TOKENS)).expect("the server reads");
    assert_eq!(connection.head().expect("the server answers").0, 200);
    for _ in 0..pieces {
        connection.chunk().expect("the stream is whole").expect("it goes on");
    }
    connection.reset();
    let left = Instant::now();
    let closed =
        eventually("the row is closed", || record.lock().expect("nobody panics with it").closed.first().copied());
    let happened = std::mem::take(&mut *record.lock().expect("nobody panics with it"));
    let after = happened.steps.iter().filter(|step| left < **step && **step < closed).count();
    ((closed - left).as_secs_f64() * 1e3, after)
}
