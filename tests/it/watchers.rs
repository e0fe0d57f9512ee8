//! The watchers as programs beside a real server: what they print, leave behind, tell, and exit with (P9).

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::http::Connection;
use crate::support::models;
use crate::support::server::{Running, Server};
use crate::support::{eventually, tiny};

/// One tick of a watcher: its exit code and its lines.
fn tick(running: &Running, words: &[&str]) -> (Option<i32>, Vec<Value>) {
    let url = format!("http://{}", running.plain());
    let ended = Command::new(env!("CARGO_BIN_EXE_sanctum-mlx"))
        .args(words)
        .args(["--url", &url, "--home"])
        .arg(running.home())
        .output()
        .expect("the binary runs");
    let stdout = String::from_utf8(ended.stdout).expect("UTF-8");
    let lines = stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    (ended.status.code(), lines)
}

const CANARY: [&str; 3] = ["canary", "--retry-seconds", "0"];

/// Whoever is to be told is a program that appends to a file.
fn plan(home: &Path, canary: &str) {
    let heard = home.join("heard");
    let text = format!(
        "[alerts]\ncommand = [\"/bin/sh\", \"-c\", \"cat >> '{0}'; echo >> '{0}'\"]\n[canary]\n{canary}\n",
        heard.display()
    );
    std::fs::write(home.join("watch.toml"), text).expect("the home is ours");
}

fn heard(home: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(home.join("heard")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("each alert is JSON")).collect()
}

#[test]
fn p9_the_canary_hears_a_right_answer_and_calls_nobody() {
    let running = Server::new(&models::default_model()).with(["--integrity-seconds", "0.1"]).ready();
    plan(running.home(), "question = \"What is the capital of France?\"\nexpected = \"Paris\"");
    let (code, lines) = tick(&running, &CANARY);
    assert_eq!((code, &lines[0]["event"], &lines[0]["transport"]), (Some(0), &"canary_ok".into(), &"plain".into()));
    assert!(lines.len() == 1 && lines[0]["probe_ms"].as_u64() > Some(0), "{lines:?}");
    assert!(heard(running.home()).is_empty());
    let log = std::fs::read_to_string(running.home().join("logs/canary.log")).expect("the tick has a log");
    assert_eq!(log.lines().count(), 1);
    eventually("the server knows of the tick", || {
        let health = Connection::to(running.admin()).get("/health").expect("an answer").json();
        health["companion_age_seconds"]["canary"].as_f64()
    });
}

#[test]
fn p9_a_server_that_answers_wrongly_is_told_once_and_once_more_when_it_is_right_again() {
    let running = Server::new(&tiny()).ready();
    plan(running.home(), "expected = \"a model of random weights never says this\"");
    for consecutive in 1..=2 {
        let (code, lines) = tick(&running, &CANARY);
        assert_eq!((code, &lines[0]["event"], &lines[0]["level"]), (Some(1), &"canary_failed".into(), &"error".into()));
        assert_eq!(lines[0]["consecutive"], consecutive);
    }
    let told = heard(running.home());
    assert_eq!(told.len(), 1, "the second is within the cooldown: {told:?}");
    assert_eq!(
        (&told[0]["watcher"], &told[0]["event"], &told[0]["recovered"]),
        (&"canary".into(), &"canary_failed".into(), &false.into())
    );

    plan(running.home(), &format!("expected = {}", Value::from(a_letter_of_the_answer(&running))));
    let (code, _) = tick(&running, &CANARY);
    assert_eq!(code, Some(0));
    let told = heard(running.home());
    assert_eq!((told.len(), &told[1]["recovered"]), (2, &true.into()), "{told:?}");
}

#[test]
fn p9_parity_is_recorded_kept_and_missed_when_the_answers_change() {
    let running = Server::new(&tiny()).ready();
    plan(running.home(), "");
    let parity = |more: &[&str]| tick(&running, &[&["parity-smoke"], more].concat());
    let (code, lines) = parity(&[]);
    assert_eq!((code, &lines[0]["event"]), (Some(2), &"parity_cannot_run".into()), "nothing is recorded: {lines:?}");
    let (code, lines) = parity(&["--record"]);
    assert_eq!((code, &lines[0]["event"]), (Some(0), &"parity_recorded".into()), "{lines:?}");
    assert_eq!(parity(&[]).0, Some(0), "temperature 0 says the same again");

    let path = running.home().join("parity-smoke.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&path).expect("recorded")).expect("JSON");
    for (changed, event, code) in [(0, "parity_changed", 0), (1, "parity_drifted", 1)] {
        spec["prompts"][changed]["expected"] = "something else".into();
        std::fs::write(&path, spec.to_string()).expect("the home is ours");
        let (ended, lines) = parity(&[]);
        assert_eq!((ended, &lines[0]["event"]), (Some(code), &event.into()), "{lines:?}");
    }
    let told: Vec<Value> = heard(running.home()).iter().map(|alert| alert["event"].clone()).collect();
    assert_eq!(told, ["parity_cannot_run", "parity_cannot_run", "parity_drifted"], "told, recovered, told");
    spec["model"] = "another".into();
    std::fs::write(&path, spec.to_string()).expect("the home is ours");
    let (code, lines) = parity(&[]);
    assert!(
        code == Some(2) && lines[0]["detail"].as_str().is_some_and(|detail| detail.contains("another")),
        "{lines:?}"
    );
}

/// One letter of what the canary gets for its question; a model of random weights uses strange ones.
fn a_letter_of_the_answer(running: &Running) -> String {
    let body = json!({
        "messages": [{"role": "user", "content": "What is 2+2? Respond with only the number."}],
        "temperature": 0,
        "max_completion_tokens": 512,
    });
    let answer = running.connect().post_chat(&body.to_string()).expect("an answer").json();
    let text = answer["choices"][0]["message"]["content"].as_str().expect("a text");
    let letter = text.chars().find(|letter| !letter.is_control() && !letter.is_whitespace());
    letter.unwrap_or_else(|| panic!("no letter in {text:?}")).to_string()
}

#[test]
fn p9_an_engine_that_ends_at_once_is_a_failed_canary_and_never_a_quiet_one() {
    let running = Server::new(&tiny()).with(["--fault", "empty@1"]).ready();
    plan(running.home(), "");
    let (code, lines) = tick(&running, &CANARY);
    assert_eq!((code, &lines[0]["event"]), (Some(1), &"canary_failed".into()), "{lines:?}");
    assert_eq!(heard(running.home()).len(), 1);
}

#[test]
fn p9_a_watcher_that_cannot_run_says_so_and_needs_a_human() {
    let running = Server::new(&tiny()).ready();
    std::fs::write(running.home().join("watch.toml"), "[canary]\nexpcted = \"4\"").expect("the home is ours");
    let (code, lines) = tick(&running, &CANARY);
    assert_eq!((code, &lines[0]["event"]), (Some(2), &"canary_cannot_run".into()));
    assert!(lines[0]["detail"].as_str().is_some_and(|detail| detail.contains("expcted")), "{lines:?}");
    let missing = running.home().join("certs/clients/default.crt");
    std::fs::remove_file(&missing).expect("a server with TLS makes it");
    let ended = Command::new(env!("CARGO_BIN_EXE_sanctum-mlx")).args(CANARY).arg("--home").arg(running.home()).output();
    let ended = ended.expect("the binary runs");
    assert_eq!(ended.status.code(), Some(2), "no silent downgrade");
}
