//! S10, S13 and health under load: the binary as a process, seen from outside, on the default model.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::report::Row;
use crate::stats::{median, percentile};
use crate::support::eventually;
use crate::support::http::Connection;
use crate::support::server::{Running, Server};
use crate::system::{self, Process};
use crate::{site, stream};

/// Starts that count; one before them fills the page cache and makes the certificates.
const STARTS: usize = 5;
/// Beyond loading, by the performance page.
const START_SECONDS_MAX: f64 = 0.5;
/// After ready, what starting woke is asleep again.
const SETTLE: Duration = Duration::from_secs(3);
/// How long an idle server is watched.
const IDLE: Duration = Duration::from_secs(20);
const IDLE_CPU_PERCENT_MAX: f64 = 0.1;
const IDLE_WAKES_MAX: f64 = 5.0;
/// Requests for health under load, on one connection.
const HEALTH_REQUESTS: usize = 10_000;
const HEALTH_P99_MS_MAX: f64 = 5.0;
/// Rows and queue, by the documented limits.
const ROWS: usize = 8;
const QUEUE: usize = 64;
/// More tokens than the saturated server produces while it is watched.
const ENDLESS_TOKENS: u32 = 1_500;
const QUESTION: &str = "Tell me a very long story about a lighthouse.";

/// How long one start took.
struct Start {
    /// Until the sockets listen.
    listening: f64,
    /// Until `state/serve.json` tells that a token was generated.
    ready: f64,
    resident: f64,
}

/// Everything that is seen of a process.
pub fn rows() -> Vec<Row> {
    let folder = tempfile::tempdir().expect("a folder for a home");
    drop(start(folder.path()).0);
    let starts: Vec<Start> = (0..STARTS).map(|_| start(folder.path()).1).collect();
    let mut rows = vec![starting(&starts)];
    let (running, _) = start(folder.path());
    rows.push(idle(&running));
    rows.extend(saturated(&running));
    rows
}

fn start(home: &Path) -> (Running, Start) {
    let begun = Instant::now();
    let server = Server::new(&site::model_folder()).with(["--queue-wait-seconds", "600"]).at_home(&home.join("home"));
    let mut running = server.start();
    eventually("listening", || running.stderr().contains("listening: ").then_some(()));
    let listening = begun.elapsed().as_secs_f64();
    running.until_ready();
    let ready = begun.elapsed().as_secs_f64();
    let resident = Process::of(running.pid()).status("VmRSS") * 1024.0;
    (running, Start { listening, ready, resident })
}

fn starting(starts: &[Start]) -> Row {
    let middle = |figure: fn(&Start) -> f64| median(&mut starts.iter().map(figure).collect::<Vec<_>>());
    let (listening, ready) = (middle(|start| start.listening), middle(|start| start.ready));
    let resident = middle(|start| start.resident);
    let load = middle(|start| start.ready - start.listening);
    Row {
        id: "S10",
        what: format!("exec → ready without load and warm-up, {STARTS} starts, warm page cache"),
        measured: format!("{listening:.2} s; ready at {ready:.2} s, load {load:.2} s; RSS {:.0} MB", resident / 1e6),
        target: "≤ 0.5 s + load",
        met: Some(ready - load <= START_SECONDS_MAX),
        figures: json!({"listening_s": listening, "ready_s": ready, "load_s": load, "resident_bytes": resident}),
    }
}

fn idle(running: &Running) -> Row {
    let process = Process::of(running.pid());
    system::pass(SETTLE);
    let (sleeps, runs, ticks) = (process.sleeps(), process.runs(), process.cpu_seconds());
    let begun = Instant::now();
    system::pass(IDLE);
    let (after, ran, seconds) = (process.sleeps(), process.runs(), begun.elapsed().as_secs_f64());
    let sum = |threads: &[(String, f64)]| threads.iter().map(|thread| thread.1).sum::<f64>();
    let wakes = (sum(&after) - sum(&sleeps)) / seconds;
    // Ticks are 10 ms, half of the bound; the scheduler's own account is finer.
    let percent = (sum(&ran) - sum(&runs)) / 1e9 / seconds * 100.0;
    let by_ticks = (process.cpu_seconds() - ticks) / seconds * 100.0;
    let before = |name: &str| sleeps.iter().find(|thread| thread.0 == name).map_or(0.0, |thread| thread.1);
    let mut threads: Vec<(String, f64)> =
        after.iter().map(|(name, count)| (name.clone(), (count - before(name)) / seconds)).collect();
    threads.retain(|thread| thread.1 > 0.0);
    threads.sort_by(|a, b| b.1.total_cmp(&a.1));
    eprintln!("S13: wake-ups a second by thread: {threads:.2?}");
    Row {
        id: "S13",
        what: format!("idle server over {} s, all threads", IDLE.as_secs()),
        measured: format!("{percent:.3} % of a core ({by_ticks:.2} by ticks), {wakes:.1} wake-ups/s"),
        target: "≤ 0.1 %, ≤ 5/s",
        met: Some(percent <= IDLE_CPU_PERCENT_MAX && wakes <= IDLE_WAKES_MAX),
        figures: json!({"cpu_percent": percent, "cpu_percent_by_ticks": by_ticks, "wakes_per_second": wakes,
                        "threads": threads}),
    }
}

/// Every row and every place in the queue taken, and nobody reading: health has to answer all the same.
fn saturated(running: &Running) -> Vec<Row> {
    let (plain, admin) = (running.plain(), running.admin());
    let body = stream::body(QUESTION, ENDLESS_TOKENS);
    let mut guests = Vec::new();
    let mut enter = |count: usize| {
        for _ in 0..count {
            let mut guest = Connection::to(plain);
            guest.send_chat(&body).expect("the server reads");
            guests.push(guest);
        }
    };
    enter(ROWS);
    eventually("all rows run", || (state(admin).0 == ROWS).then_some(()));
    enter(QUEUE);
    eventually("the queue is full", || (state(admin) == (ROWS, QUEUE)).then_some(()));
    let rows = [("health", "plain listener", plain), ("health adm", "admin listener", admin)];
    rows.map(|(id, name, address)| health(id, name, address, admin)).into()
}

/// Rows that run and jobs that wait.
fn state(admin: SocketAddr) -> (usize, usize) {
    let answer = Connection::to(admin).get("/health").expect("the admin listener answers");
    let health: Value = answer.json();
    let count =
        |name: &str| health[name].as_u64().unwrap_or_else(|| panic!("health says no {name}: {health}")) as usize;
    (count("running_rows"), count("queue_depth"))
}

fn health(id: &'static str, name: &str, address: SocketAddr, admin: SocketAddr) -> Row {
    let before = state(admin);
    let mut connection = Connection::to(address);
    let mut samples = Vec::with_capacity(HEALTH_REQUESTS);
    for _ in 0..HEALTH_REQUESTS {
        let begun = Instant::now();
        let answer = connection.get("/health/live").expect("the server answers");
        samples.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(answer.status, 200, "a live server says so");
    }
    let after = state(admin);
    let full = before == (ROWS, QUEUE) && after == (ROWS, QUEUE);
    let (p50, p99, max) =
        (percentile(&mut samples, 0.5), percentile(&mut samples, 0.99), percentile(&mut samples, 1.0));
    Row {
        id,
        what: format!("{HEALTH_REQUESTS} × GET /health/live, {name}, rows and queue full"),
        measured: format!("{p50:.2} ms p50, {p99:.2} p99, {max:.1} max; rows, queue {before:?} → {after:?}"),
        target: "p99 < 5 ms",
        met: full.then_some(p99 < HEALTH_P99_MS_MAX),
        figures: json!({"p50_ms": p50, "p99_ms": p99, "max_ms": max, "n": HEALTH_REQUESTS, "saturated": full}),
    }
}
