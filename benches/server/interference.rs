//! S7: what a long prompt does to others. The gaps of a stream while it is evaluated, and the time to the first token of a
//! short request that comes meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::effort::Effort;
use crate::report::Row;
use crate::served::Served;
use crate::stats::{Conditions, median, percentile};
use crate::stream::{self, Streamed};
use crate::support::eventually;
use crate::words::Words;
use crate::{site, system};

/// The prompt that is in the way.
const LONG_TOKENS: usize = 2_000;
/// Of its answer: the first one may have no text of its own.
const LONG_ANSWER_TOKENS: u32 = 2;
/// The one that must not wait for it.
const SHORT_TOKENS: usize = 48;
/// Tokens of a stream that runs meanwhile: longer than a long prompt takes.
const STREAM_TOKENS: u32 = 400;
/// Tokens that it has given when the long prompt comes.
const BEFORE: Duration = Duration::from_millis(300);
/// Gaps that a 99th percentile needs, and long prompts after which there are enough or something is wrong.
const GAPS: usize = 1_000;
const LONG_PROMPTS_MAX: usize = 200;
/// Short requests.
const SHORTS: usize = 40;
/// What a chunk of prompt may add to a step.
const GAP_MS_MAX: f64 = 100.0;
/// What a long prompt may add to the first token of a short one.
const FIRST_MS_MAX: f64 = 250.0;

pub fn rows(effort: Effort) -> Vec<Row> {
    let server = Served::start(["--prefix-cache-mb", "0"]);
    let words = Words::new(site::text());
    vec![gaps(&server, &words, effort), firsts(&server, &words, effort)]
}

/// The gaps of a stream while a long prompt is evaluated.
fn gaps(server: &Served, words: &Words, effort: Effort) -> Row {
    let wanted = effort.of(GAPS, 1);
    let (mut during, mut alone, mut prompts) = (Vec::new(), Vec::new(), 0);
    let ((), conditions) = Conditions::around_with(&[server.process()], || {
        while during.len() < wanted && prompts < LONG_PROMPTS_MAX {
            let (stream, long) = together(server, words);
            let (begun, ended) = (long.asked, long.arrivals[0]);
            for pair in stream.arrivals.windows(2) {
                let gap = (pair[1] - pair[0]).as_secs_f64() * 1e3;
                // A gap in which the long prompt came or ended counts as well: that is where it hurts.
                if pair[1] > begun && pair[0] < ended {
                    during.push(gap);
                } else {
                    alone.push(gap);
                }
            }
            prompts += 1;
        }
    });
    let step = median(&mut alone);
    let (p50, p99, max) = (percentile(&mut during, 0.5), percentile(&mut during, 0.99), percentile(&mut during, 1.0));
    let met = p99 <= GAP_MS_MAX + step;
    Row {
        id: "S7",
        what: format!(
            "ITL p99 of a stream while {prompts} prompts of {LONG_TOKENS} tokens come, {} gaps",
            during.len()
        ),
        measured: format!("{p99:.1} ms p99, {p50:.1} p50, {max:.1} max; a step alone {step:.1}; {}", told(conditions)),
        target: "≤ 100 ms + a step",
        met: judged(conditions, effort, met),
        figures: json!({"p50_ms": p50, "p99_ms": p99, "max_ms": max, "step_ms": step, "n": during.len(),
                        "prompts": prompts, "foreign_cores": conditions.foreign_cores}),
    }
}

/// A stream, and a long prompt that comes while it runs.
fn together(server: &Served, words: &Words) -> (Streamed, Streamed) {
    let body = stream::conversation(&words.unique(SHORT_TOKENS), STREAM_TOKENS).to_string();
    let long = stream::conversation(&words.unique(LONG_TOKENS), LONG_ANSWER_TOKENS).to_string();
    std::thread::scope(|scope| {
        let stream = scope.spawn(move || stream::ask(&mut server.connect(), &body));
        eventually("the stream runs", || (server.rows() == 1).then_some(()));
        system::pass(BEFORE);
        let long = stream::ask(&mut server.connect(), &long);
        (stream.join().expect("the stream is whole"), long)
    })
}

/// The first token of a short request, alone and while a long prompt is evaluated, in turns.
fn firsts(server: &Served, words: &Words, effort: Effort) -> Row {
    let count = effort.of(SHORTS, 2);
    let (mut loaded, mut unloaded, mut late) = (Vec::new(), Vec::new(), 0);
    let ((), conditions) = Conditions::around_with(&[server.process()], || {
        for _ in 0..count {
            unloaded.push(short(server, words).first().as_secs_f64() * 1e3);
            let long = stream::conversation(&words.unique(LONG_TOKENS), LONG_ANSWER_TOKENS).to_string();
            let (answer, ended) = std::thread::scope(|scope| {
                let long = scope.spawn(move || stream::ask(&mut server.connect(), &long).arrivals[0]);
                eventually("the long prompt runs", || (server.rows() == 1).then_some(()));
                let answer = short(server, words);
                (answer, long.join().expect("the long answer is whole"))
            });
            loaded.push(answer.first().as_secs_f64() * 1e3);
            late += usize::from(answer.asked >= ended);
        }
    });
    assert_eq!(late, 0, "short requests that came when the long prompt was done");
    let usual = median(&mut unloaded);
    let (p50, p95) = (percentile(&mut loaded, 0.5), percentile(&mut loaded, 0.95));
    Row {
        id: "S7 first",
        what: format!("TTFT of {SHORT_TOKENS} tokens while {LONG_TOKENS} others are evaluated, {count} requests"),
        measured: format!("{p95:.0} ms p95, {p50:.0} p50; unloaded {usual:.0}; {}", told(conditions)),
        target: "p95 ≤ unloaded + 250 ms",
        met: judged(conditions, effort, p95 <= usual + FIRST_MS_MAX),
        figures: json!({"p50_ms": p50, "p95_ms": p95, "unloaded_ms": usual, "n": count,
                        "foreign_cores": conditions.foreign_cores}),
    }
}

fn short(server: &Served, words: &Words) -> Streamed {
    let body = stream::conversation(&words.unique(SHORT_TOKENS), 2).to_string();
    stream::ask(&mut server.connect(), &body)
}

/// One long run has one calibration on each side: only foreign load can be told.
fn judged(conditions: Conditions, effort: Effort, met: bool) -> Option<bool> {
    if conditions.disturbed() { None } else { effort.verdict(met) }
}

fn told(conditions: Conditions) -> String {
    format!("foreign load {:.2} cores", conditions.foreign_cores)
}
