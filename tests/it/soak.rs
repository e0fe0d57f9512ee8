//! O8: a server under mixed load whose clients leave at random moments, round after round. At the end of each round
//! everyone leaves, and then the server has what it had before anyone came: no row, no job, no file, and after the first
//! rounds no more memory either.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{Answer, Connection};
use crate::support::models::{Random, default_model};
use crate::support::server::{Running, Server};
use crate::support::{eventually, tell_trials, trials};

/// Minutes of a usual run; `scripts/deep O8` runs an hour.
const MINUTES: usize = 3;
/// From this on the slope of memory is judged too: over less it is noise.
const MINUTES_FOR_A_SLOPE: usize = 60;
/// Points through which a slope is worth telling.
const POINTS_FOR_A_SLOPE: usize = 24;
/// Rounds of load in a minute, each followed by rest.
const ROUNDS_PER_MINUTE: usize = 3;
const ROUND: Duration = Duration::from_secs(60 / ROUNDS_PER_MINUTE as u64);
const CLIENTS: u64 = 6;
/// Memory that a server may have above what it had when it was warm.
const GROWTH_BYTES_MAX: u64 = 32 << 20;
/// Of memory at rest, in MiB an hour.
const SLOPE_MAX: f64 = 1.0;

/// What the process and the engine have at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Look {
    resident_bytes: u64,
    files: usize,
    running: u64,
    queued: u64,
    in_flight: u64,
}

impl Look {
    fn at(running: &Running) -> Self {
        let health = Connection::to(running.admin()).get("/health").expect("an answer").json();
        let gauge = |name: &str| health[name].as_u64().unwrap_or_else(|| panic!("no {name} in {health}"));
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("a live process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
        Self {
            resident_bytes: line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10,
            files: std::fs::read_dir(format!("/proc/{}/fd", running.pid())).expect("a live process").count(),
            running: gauge("running_rows"),
            queued: gauge("queue_depth"),
            // Without the one that asks.
            in_flight: gauge("requests_in_flight") - 1,
        }
    }

    /// Waits until nobody is served and memory stands still.
    fn at_rest(running: &Running) -> Self {
        let mut last = (0, 0);
        eventually("nothing runs, waits or moves", || {
            let look = Self::at(running);
            last = if look.resident_bytes == last.0 { (last.0, last.1 + 1) } else { (look.resident_bytes, 0) };
            (look.running + look.queued + look.in_flight == 0 && last.1 > 20).then_some(look)
        })
    }
}

/// The largest of what the process has mapped, for whoever looks for what grew.
fn mappings(running: &Running) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps", running.pid())).expect("a live process");
    let mut found = Vec::new();
    let mut name = "";
    for line in text.lines() {
        match line.strip_prefix("Rss:") {
            Some(size) => found.push((size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number"), name)),
            None if line.split(' ').next().is_some_and(|word| word.contains('-')) => name = line,
            None => {}
        }
    }
    found.sort_unstable_by(|one, other| other.cmp(one));
    found.truncate(20);
    found.iter().map(|(size, name)| format!("{size:8} KiB  {name}\n")).collect()
}

/// The slope of a line through these points (least squares), per unit of the first number.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let together: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    if spread == 0.0 { 0.0 } else { together / spread }
}

/// Answers that came whole, and clients that left before.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    left: AtomicU64,
}

/// One client: connections one after the other, each with a few requests, most of which it waits for.
struct Guest<'a> {
    running: &'a Running,
    random: Random,
    tally: &'a Tally,
}

impl Guest<'_> {
    fn visit(&mut self, until: Instant) {
        while Instant::now() < until {
            let mut connection = self.running.connect();
            let leaves = self.random.below(3) == 0;
            for _ in 0..self.random.below(4) {
                if Instant::now() >= until {
                    return;
                }
                let body = self.body();
                let answer = connection.post_chat(&body.to_string()).expect("an answer");
                check(&body, &answer);
                self.tally.answered.fetch_add(1, Ordering::Relaxed);
            }
            if leaves {
                self.leave(connection);
            }
        }
    }

    /// Leaves by a reset: before the request is whole, before its answer begins, or in the middle of it.
    fn leave(&mut self, mut connection: Connection) {
        let body = self.body().to_string();
        match self.random.below(3) {
            0 => connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-le"),
            _ => connection.send_chat(&body),
        }
        .expect("the server reads");
        let streams = body.contains(r#""stream":true"#);
        if self.random.below(2) == 0 && streams && connection.head().is_ok() {
            (0..self.random.below(8)).for_each(|_| drop(connection.chunk()));
        }
        connection.reset();
        self.tally.left.fetch_add(1, Ordering::Relaxed);
    }

    /// A request of one of the kinds that a server gets.
    fn body(&mut self) -> Value {
        const SYSTEM: &str =
            "You answer in as few words as you can, you never repeat the question, and you do not explain.";
        let topic = ["rivers", "the sea", "bread", "Ada Lovelace", "iron", "the moon"][self.random.below(6)];
        let user = format!("{} Tell me something about {topic}, please.", "Well then. ".repeat(self.random.below(30)));
        let mut body = json!({
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}],
            "max_tokens": 1 + self.random.below(24), "seed": self.random.below(1_000),
        });
        let more = match self.random.below(8) {
            0 => json!({"n": 3}),
            1 => json!({"regex": "[0-9]{2,6}"}),
            2 => json!({"choice": ["yes", "no", "perhaps"]}),
            3 => json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
                "type": "object", "additionalProperties": false, "required": ["a"],
                "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}}}}}),
            4 => json!({"temperature": 0, "logprobs": true, "top_logprobs": 3}),
            _ => json!({"stream": true, "stream_options": {"include_usage": true}}),
        };
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    }
}

/// An answer has what was asked for.
fn check(body: &Value, answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    if body["stream"] == true {
        assert_eq!(answer.events().last(), Some(&"[DONE]"), "{}", answer.body);
        return;
    }
    let choices = answer.json()["choices"].as_array().map_or(0, Vec::len);
    assert_eq!(choices as u64, body["n"].as_u64().unwrap_or(1), "{}", answer.body);
}

/// One round: clients come and go, then all have left.
fn round(running: &Running, number: usize, tally: &Tally) {
    let until = Instant::now() + ROUND;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let random = Random(number as u64 * CLIENTS + client);
            scope.spawn(move || Guest { running, random, tally }.visit(until));
        }
    });
}

#[test]
fn o8_after_every_round_of_mixed_load_with_disconnects_the_server_has_what_it_had_before() {
    let minutes = trials(MINUTES);
    let running = Server::new(&default_model()).with(["--prefix-cache-mb", "32"]).ready();
    let tally = Tally::default();
    let before = Look::at_rest(&running);
    let mut points = Vec::new();
    let mut warm = before;
    println!("minute  RSS MiB  files  running  queued  answered  left  slope MiB/h");
    for number in 1..=minutes * ROUNDS_PER_MINUTE {
        round(&running, number, &tally);
        let look = Look::at_rest(&running);
        let look = eventually("its files are those it had", || {
            let look = Look { resident_bytes: look.resident_bytes, ..Look::at(&running) };
            (look.files == before.files).then_some(look)
        });
        let mib = look.resident_bytes as f64 / f64::from(1 << 20);
        // The first minute of three, and the first five of an hour, fill every cache.
        if number <= (minutes * ROUNDS_PER_MINUTE).div_ceil(12).max(ROUNDS_PER_MINUTE) {
            warm = look;
        } else {
            points.push((number as f64 / (60 * ROUNDS_PER_MINUTE) as f64, mib));
            let growth = look.resident_bytes.saturating_sub(warm.resident_bytes);
            if growth > GROWTH_BYTES_MAX {
                let (kept, said) = (mappings(&running), running.stderr());
                panic!(
                    "{mib:.1} MiB, and {} bytes when warm; what it has:\n{kept}\nit said:\n{said}",
                    warm.resident_bytes
                );
            }
        }
        if number.is_multiple_of(ROUNDS_PER_MINUTE) {
            let (answered, left) = (tally.answered.load(Ordering::Relaxed), tally.left.load(Ordering::Relaxed));
            let Look { files, running, queued, .. } = look;
            let minute = number / ROUNDS_PER_MINUTE;
            let told = (points.len() >= POINTS_FOR_A_SLOPE).then(|| format!("{:.2}", slope(&points)));
            let told = told.as_deref().unwrap_or("-");
            println!("{minute:6}  {mib:7.1}  {files:5}  {running:7}  {queued:6}  {answered:8}  {left:4}  {told:>11}");
        }
    }
    let steady = slope(&points);
    assert!(minutes < MINUTES_FOR_A_SLOPE || steady <= SLOPE_MAX, "memory at rest grows by {steady:.2} MiB an hour");
    tell_trials("O8", minutes, MINUTES);
}
