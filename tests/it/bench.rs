//! `sanctum-mlx bench` as a process against a real server: what it prints is read as its reader would, and every count in
//! it is checked against what was asked for.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::server::{Running, Server};
use crate::support::tiny;

/// Sizes of each request, and requests of each client.
const PROMPT_TOKENS: u64 = 600;
const TOKENS: u64 = 8;
const REQUESTS: u64 = 3;
const SIZES: [&str; 6] = ["--prompt-tokens", "600", "--tokens", "8", "--requests", "3"];

fn server() -> Running {
    Server::new(&tiny()).with(["--rows", "4"]).ready()
}

fn bench(arguments: &[&str], home: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sanctum-mlx"));
    command.arg("bench").args(arguments).arg("--home").arg(home).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints UTF-8")
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON value")
}

#[test]
fn every_stage_is_in_the_json_with_the_counts_that_were_asked_for() {
    let running = server();
    let url = format!("http://{}", running.plain());
    let loops = ["--url", &url, "--clients", "3", "--rate", "20", "--rate-seconds", "2", "--json"];
    let output = bench(&[&loops[..], &SIZES].concat(), running.home());
    let report = json(&output);
    let stages = report["stages"].as_array().expect("a list");
    let names: Vec<_> = stages.iter().map(|stage| (&stage["loop"], &stage["clients"], &stage["rate"])).collect();
    let null = Value::Null;
    let (closed, open) = (Value::from("closed"), Value::from("open"));
    let [one, two, three] = [1, 2, 3].map(Value::from);
    let rate = Value::from(20.0);
    let expected = [(&closed, &one, &null), (&closed, &two, &null), (&closed, &three, &null), (&open, &null, &rate)];
    assert_eq!(names, expected);
    for (stage, clients) in stages.iter().zip(1..=3) {
        assert_eq!(stage["answered"], REQUESTS * clients, "{stage}");
        assert_eq!(stage["requests"], stage["answered"], "{stage}");
    }
    for stage in stages {
        let answered = stage["answered"].as_u64().expect("a count");
        assert!(answered > 0 && stage["failed"] == 0, "{stage}");
        assert_eq!(stage["completion_tokens"], answered * TOKENS, "{stage}");
        assert_eq!(stage["ttft_ms"]["n"], answered, "{stage}");
        let asked = answered * PROMPT_TOKENS;
        let counted = stage["prompt_tokens_sum"].as_u64().expect("a count");
        // A byte is a token of the tiny model, and words differ in length.
        assert!(counted.abs_diff(asked) * 4 <= asked, "prompts have {counted} tokens instead of {asked}");
    }
    let server = &report["server"];
    assert_eq!(server["transport"], "plain");
    for name in ["model", "quantization", "instance", "version", "fingerprint"] {
        assert!(server[name].as_str().is_some_and(|text| !text.is_empty()), "{name} is told: {server}");
    }
    assert!(text(&output.stderr).contains("closed loop"), "the table goes to stderr");
}

#[test]
fn over_mutual_tls_the_table_has_a_line_for_each_stage_and_a_shared_prefix_is_found_cached() {
    let running = server();
    let url = format!("https://localhost:{}", running.tls().port());
    let arguments = ["--url", &url, "--clients", "2", "--shared-prefix", "500"];
    let output = bench(&[&arguments[..], &SIZES].concat(), running.home());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains(&format!("{url}, mtls")), "{table}");
    for answers in ["3/3", "6/6"] {
        assert!(table.lines().any(|line| line.contains(answers)), "a line with {answers}:\n{table}");
    }
    for word in ["TTFT", "ITL", "TPOT", "goodput", "cached"] {
        assert!(table.lines().any(|line| line.starts_with(word)), "{word} is defined:\n{table}");
    }
    let line = table.lines().find(|line| line.contains("6/6")).expect("checked above");
    let cached: Vec<&str> = line.trim_end_matches(" %").rsplit(' ').collect();
    assert!(cached[0].parse::<u32>().expect("a percentage") >= 50, "{line}");
}

#[test]
fn unique_prompts_are_not_found_cached() {
    let running = server();
    let url = format!("http://{}", running.plain());
    let report = json(&bench(&[&["--url", &url, "--clients", "1", "--json"], &SIZES[..]].concat(), running.home()));
    let stage = &report["stages"][0];
    let count = |name: &str| stage[name].as_u64().expect("a count");
    assert!(count("cached_tokens_sum") * 2 < count("prompt_tokens_sum"), "{stage}");
}

#[test]
fn a_server_that_is_not_there_or_cannot_answer_is_one_line_and_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let running = server();
    let url = format!("http://{}", running.plain());
    let gone = format!("http://{nobody}");
    let cases: [(&[&str], &str); 5] = [
        (&["--url", &gone], &gone),
        (&["--url", &url, "--model", "other"], "does not serve other"),
        (&["--url", &url, "--prompt-tokens", "4"], "--prompt-tokens 4"),
        (&["--url", &url, "--clients", "0"], "nothing would be measured"),
        (&["--url", "https://localhost:1"], "no fall-back to plain HTTP"),
    ];
    for (arguments, words) in cases {
        let output = bench(arguments, folder.path());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(words), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn answers_that_fail_are_counted_and_told_by_code_1() {
    // Learning the size of a word and warming up take some dozen steps. In those named here, which come later, the numbers
    // go wrong; one of them at least is no chunk of a prompt.
    let running = Server::new(&tiny()).with(["--fault", "nan@60,nan@61,nan@62"]).ready();
    let url = format!("http://{}", running.plain());
    let sizes = ["--prompt-tokens", "96", "--tokens", "8", "--requests", "8"];
    let output = bench(&[&["--url", &url, "--clients", "1", "--json"], &sizes[..]].concat(), running.home());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("there are figures all the same");
    let count = |name: &str| report["stages"][0][name].as_u64().expect("a count");
    assert!(count("failed") > 0 && count("answered") + count("failed") == 8, "{report}");
    let why = text(&output.stderr).lines().find_map(|line| line.strip_prefix("bench: 1 client: "));
    assert!(why.is_some_and(|why| why.contains("generation failed")), "{}", text(&output.stderr));
}
