//! Memory: what is refused because it never fits, what waits until it does, and what is given back.

use std::time::{Duration, Instant};

use sanctum_mlx::client::Client;
use serde_json::{Value, json};

use crate::support::server::{Running, Server};
use crate::support::{SLACK, eventually, models};

/// Bytes of memory that the process has now.
fn resident_bytes(running: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn client(running: &Running) -> Client {
    Client::new(&format!("http://{}", running.plain()), None, Duration::from_secs(300)).expect("a client")
}

fn body(words: usize, tokens: u32) -> Value {
    let text = "one two three four five six seven eight nine ten ".repeat(words / 10);
    json!({"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "ignore_eos": true, "temperature": 0})
}

#[test]
fn m1_what_never_fits_is_a_503_naming_the_sizes_and_what_does_not_fit_yet_waits() {
    const LIMIT_MB: u64 = 240;
    /// Of the process: code, libraries, tokenizer, and what the allocator keeps, which the limit does not count. Were all six
    /// admitted at once, it would be exceeded by more than 60 MiB.
    const OUTSIDE_MB: u64 = 64;
    let limit = LIMIT_MB.to_string();
    let running = Server::new(&models::default_model())
        .with(["--memory-limit-mb", &limit, "--queue-wait-seconds", "280"])
        .ready();
    let client = client(&running);
    let refused = client.post("/v1/chat/completions", &body(10, 8000)).expect("an answer");
    let told: Value = refused.json().expect("JSON");
    let message = told["error"]["message"].as_str().expect("a message");
    assert_eq!((refused.status, &told["error"]["code"]), (503, &json!("memory_short")), "{message}");
    assert!(message.contains(&format!("{LIMIT_MB} MiB")), "{message}");
    // From here on the kernel's peak is that of serving: while it loads, the process also has the file in memory.
    std::fs::write(format!("/proc/{}/clear_refs", running.pid()), "5").expect("our own process");
    // Each takes more than a third of what the rows may take, so they cannot all run at once.
    std::thread::scope(|scope| {
        let ask = || client.post("/v1/chat/completions", &body(100, 500)).expect("an answer").json().expect("JSON");
        let answers: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
        for answer in answers {
            let answer: Value = answer.join().expect("asked");
            assert_eq!(answer["usage"]["completion_tokens"], 500, "{answer}");
        }
    });
    let peak = std::fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("a live process");
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel says it");
    let peak_mb = peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10;
    println!("M1, peak {peak_mb} MiB of {LIMIT_MB} MiB and {OUTSIDE_MB} MiB");
    assert!(peak_mb <= LIMIT_MB + OUTSIDE_MB, "{peak_mb} MiB were taken, {LIMIT_MB} MiB were allowed");
}

#[test]
fn m4_after_work_memory_goes_back_to_what_an_idle_server_has() {
    let running = Server::new(&models::default_model()).with(["--prefix-cache-mb", "0"]).ready();
    let client = client(&running);
    let ask = |words, tokens| drop(client.post("/v1/chat/completions", &body(words, tokens)).expect("an answer"));
    ask(10, 4);
    let mut seen = (0, 0);
    let idle = eventually("memory is at rest", || {
        let bytes = resident_bytes(&running);
        seen = if bytes == seen.0 { (bytes, seen.1 + 1) } else { (bytes, 0) };
        (seen.1 > 10).then_some(bytes)
    });
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(|| ask(600, 300)))));
    let done = Instant::now();
    eventually("memory is back within five percent", || (resident_bytes(&running) <= idle / 100 * 105).then_some(()));
    assert!(done.elapsed() <= Duration::from_secs(10) + SLACK, "it took {:?}", done.elapsed());
}
