//! A watcher shares nothing with what it watches: the library of MLX is loaded with the program, yet no tick lets it begin
//! anything, and none opens a file of weights. What `scripts/ticks` measures, this explains.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::place::{CANARY, DRIFT, GUARDIAN, INTEGRITY, Place};
use crate::support::{eventually, tiny};

/// MLX makes it when it begins: the threads of its streams are its own. Within MLX's library a function is bound when it is
/// called for the first time, and the loader of programs can tell.
const SCHEDULER: &str = "_ZN3mlx4core9scheduler9SchedulerC1Ev";

/// Whether MLX began in a process whose loader told into a file of this folder.
fn began(folder: &Path) -> bool {
    let files: Vec<_> = fs::read_dir(folder).expect("ours").map(|entry| entry.expect("ours").path()).collect();
    assert!(!files.is_empty(), "the loader told nothing");
    let bound = |line: &str| line.contains("libmlx.so [0] to ") && line.contains(SCHEDULER);
    files.iter().any(|file| String::from_utf8_lossy(&fs::read(file).expect("ours")).lines().any(bound))
}

/// A folder into which the loader of a program tells, and the variables that make it.
fn told(place: &Place, name: &str) -> (std::path::PathBuf, [(&'static str, String); 2]) {
    let folder = place.site.double.root().join(format!("bindings of {name}"));
    fs::create_dir(&folder).expect("ours");
    let file = folder.join("process").display().to_string();
    (folder, [("LD_DEBUG", "bindings".to_owned()), ("LD_DEBUG_OUTPUT", file)])
}

#[test]
fn a_tick_lets_mlx_begin_nothing_which_a_server_does() {
    let place = Place::new();
    for channel in [GUARDIAN, CANARY, INTEGRITY, DRIFT] {
        let (folder, variables) = told(&place, channel.name);
        let ended = place.tick(channel).envs(variables).output().expect("it runs");
        assert!(!ended.stdout.is_empty(), "{} ticked", channel.name);
        assert!(!began(&folder), "{} let MLX begin", channel.name);
    }
    // What would show it, shows it.
    let (folder, variables) = told(&place, "serve");
    let home = place.site.double.root().join("another home");
    let mut server = Command::new(env!("CARGO_BIN_EXE_sanctum-mlx"))
        .args(["serve", "--port", "0", "--tls-port", "0", "--model"])
        .arg(tiny())
        .arg("--home")
        .arg(&home)
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    eventually("it is ready", || home.join("state/serve.json").exists().then_some(()));
    server.kill().expect("it is ours");
    server.wait().expect("it is ours");
    assert!(began(&folder), "a server lets MLX begin");
}

#[test]
fn a_tick_opens_no_file_of_weights() {
    let place = Place::new();
    let trace = place.site.double.root().join("trace");
    let traced = |command: &Command| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", "signal=none", "-e", "trace=?open,?openat,?openat2", "-o"]).arg(&trace);
        strace.arg(command.get_program()).args(command.get_args());
        strace.envs(command.get_envs().filter_map(|(name, value): (&OsStr, _)| Some((name, value?))));
        strace.stdin(Stdio::null()).output()
    };
    if !traced(&Command::new("true")).is_ok_and(|ended| ended.status.success()) {
        println!("strace is not installed or may not trace: nothing was looked at");
        return;
    }
    let weights = place.model().display().to_string();
    for channel in [GUARDIAN, CANARY, INTEGRITY, DRIFT] {
        traced(&place.tick(channel)).expect("strace runs");
        let calls = fs::read_to_string(&trace).expect("it was traced");
        let log = format!("logs/{}.log", channel.name);
        assert!(calls.contains(&log), "{} wrote its log", channel.name);
        let opened: Vec<&str> = calls.lines().filter(|line| line.contains(&weights)).collect();
        assert!(opened.is_empty(), "{}: {opened:?}", channel.name);
    }
}
