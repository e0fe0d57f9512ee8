//! S8: what is left of the good answers when more is asked for than the server can do. The load is `sanctum-mlx bench`'s:
//! requests that come by chance, timed from when they were due. A server that takes whatever comes has no good answers left;
//! ours has a bounded queue, and how long it may be follows from how long a good answer may take.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::effort::Effort;
use crate::report::Row;
use crate::served::Served;
use crate::stats::Conditions;

/// Clients of the closed loop that finds capacity.
const CLIENTS: &str = "8";
/// Sizes of each request.
const SIZES: [&str; 4] = ["--prompt-tokens", "64", "--tokens", "32"];
/// Shares of capacity at which requests come.
const LOADS: [f64; 6] = [0.2, 0.5, 0.8, 1.0, 1.5, 2.0];
/// Where in `LOADS` the capacity is, and twice of it.
const ONCE: usize = 3;
const TWICE: usize = 5;
/// What good means: the first token within this, and each further one within so many times what it takes at capacity.
const FIRST_MS_MAX: f64 = 2_000.0;
const STEP_FACTOR_MAX: f64 = 2.0;
/// The part of that time which may be spent in the queue.
const QUEUE_SHARE: f64 = 0.5;
/// Twice the load must leave so much.
const LEFT_MIN: f64 = 0.9;
/// Jobs that wait by default.
const QUEUE_DEFAULT: u32 = 64;

/// What the closed loop found.
struct Capacity {
    requests_per_second: f64,
    tpot_ms: f64,
}

pub fn rows(effort: Effort) -> Vec<Row> {
    let server = Served::start(["--prefix-cache-mb", "0"]);
    let capacity = capacity(&server, effort);
    drop(server);
    let fits = (capacity.requests_per_second * FIRST_MS_MAX / 1e3 * QUEUE_SHARE).floor().max(1.0) as u32;
    vec![sweep("S8", &capacity, fits, effort), sweep("S8 default", &capacity, QUEUE_DEFAULT, effort)]
}

fn capacity(server: &Served, effort: Effort) -> Capacity {
    let report = bench(server, &["--clients", CLIENTS, "--requests", effort.of("16", "2")]);
    let stage = report["stages"].as_array().and_then(|stages| stages.last()).expect("the last stage has all clients");
    Capacity { requests_per_second: number(&stage["requests_per_second"]), tpot_ms: number(&stage["tpot_ms"]["p50"]) }
}

/// All loads against a server with so long a queue.
fn sweep(id: &'static str, capacity: &Capacity, queue: u32, effort: Effort) -> Row {
    let server = Served::start(["--prefix-cache-mb", "0", "--queue-jobs", &queue.to_string()]);
    let rates = LOADS.map(|load| format!("{:.3}", load * capacity.requests_per_second)).join(",");
    let tpot_ms = STEP_FACTOR_MAX * capacity.tpot_ms;
    let slo =
        [("--slo-ttft-ms", FIRST_MS_MAX), ("--slo-tpot-ms", tpot_ms)].map(|(flag, most)| format!("{flag}={most}"));
    let arguments = ["--clients", "0", "--rate", &rates, "--rate-seconds", effort.of("60", "4"), &slo[0], &slo[1]];
    let (report, conditions) = Conditions::around_with(&[server.process()], || bench(&server, &arguments));
    let stages = report["stages"].as_array().expect("a list");
    let good: Vec<f64> = stages.iter().map(|stage| number(&stage["goodput_per_second"])).collect();
    assert_eq!(good.len(), LOADS.len(), "one stage a load");
    let left = good[TWICE] / good[ONCE];
    let curve = good.iter().map(|good| format!("{good:.2}")).collect::<Vec<_>>().join(" ");
    let what = format!("goodput at 2 × capacity ÷ at 1 ×, queue of {queue}, TTFT ≤ {FIRST_MS_MAX} ms");
    Row {
        id,
        what,
        measured: format!("{left:.2}; {curve} /s at {LOADS:?} of {:.2}/s", capacity.requests_per_second),
        target: "≥ 0.9",
        met: if conditions.disturbed() { None } else { effort.verdict(left >= LEFT_MIN) },
        figures: json!({"left": left, "goodput_per_second": good, "loads": LOADS, "queue": queue,
                        "capacity_per_second": capacity.requests_per_second, "tpot_ms_max": tpot_ms,
                        "foreign_cores": conditions.foreign_cores, "stages": stages}),
    }
}

/// `sanctum-mlx bench` on the server, and what it says.
fn bench(server: &Served, arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sanctum-mlx"));
    command.args(["bench", "--json", "--url", &server.url()]).args(SIZES).args(arguments);
    command.arg("--home").arg(server.home()).stderr(Stdio::inherit());
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "sanctum-mlx bench ended with {}", output.status);
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}
