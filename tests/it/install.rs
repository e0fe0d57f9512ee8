//! Installing, for real: the binary under test lays itself down in a home, a supervisor starts it, and it answers over
//! mutual TLS; then everything that can go wrong with an installation does. The supervisor is a double
//! that really starts and stops processes.

#[cfg(target_os = "linux")] // `strace` is there only.
mod killed;
#[cfg(target_os = "linux")] // `unshare` is there only.
mod moved;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::support::http::Connection;
use crate::support::models;
use crate::support::supervisor::{Double, Kind};
use crate::support::{eventually, tell_trials};
use serde_json::Value;

const UNIT: &str = "sanctum-mlx.service";

/// A user with a home, settings and a supervisor of its own.
struct User {
    double: Double,
}

impl User {
    fn new() -> Self {
        let user = Self { double: Double::new(Kind::Systemd, 0.05) };
        std::fs::create_dir_all(user.home()).expect("ours");
        set_mode(&user.home(), 0o700);
        let settings = format!(
            "model = \"{}\"\nport = {}\ntls_port = {}\ndrain_seconds = 1\n",
            models::default_model().display(),
            free_port(),
            free_port()
        );
        std::fs::write(user.home().join("config.toml"), settings).expect("ours");
        // A small model knows this one.
        let plan = "[canary]\nquestion = \"What is the capital of France?\"\nexpected = \"Paris\"\n";
        std::fs::write(user.home().join("watch.toml"), plan).expect("ours");
        user
    }

    fn home(&self) -> PathBuf {
        self.double.root().join("home of mine")
    }

    fn run(&self, program: &Path, words: &[&str]) -> Output {
        self.command(program, words).output().expect("it runs")
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = self.double.command(program);
        command.args(words).arg("--home").arg(self.home()).stdin(Stdio::null());
        command
    }

    /// What must succeed; its words.
    fn done(&self, program: &Path, words: &[&str]) -> String {
        let ended = self.run(program, words);
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert!(ended.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&ended.stderr));
        said
    }

    fn pid(&self) -> Option<u32> {
        self.double.pid(UNIT)
    }

    fn is_ready(&self) -> bool {
        let Ok(text) = std::fs::read(self.home().join("state/serve.json")) else { return false };
        let bound: Value = serde_json::from_slice(&text).expect("it is written whole");
        let admin = bound["admin"].as_str().and_then(|admin| admin.parse().ok()).expect("an address");
        let answer = Connection::try_to(admin).and_then(|mut connection| connection.get("/health/ready"));
        answer.is_ok_and(|answer| answer.status == 200)
    }

    fn current(&self) -> PathBuf {
        std::fs::canonicalize(self.home().join("current")).expect("something is current")
    }

    /// The names of what is not as it should be.
    fn wrong(&self, program: &Path) -> Vec<String> {
        let ended = self.run(program, &["status", "--json"]);
        let status: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
        let wrong = status["wrong"].as_array().expect("a list").iter();
        let names: Vec<String> = wrong.map(|wrong| wrong["event"].as_str().expect("a name").to_owned()).collect();
        assert_eq!(ended.status.code(), Some(i32::from(!names.is_empty())), "{status}");
        names
    }
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sanctum-mlx"))
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
}

/// Free a moment ago, which is what settings that survive a restart need.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Another build of the same revision: the same program with a byte behind its end, which nobody reads.
fn another_build(folder: &Path) -> PathBuf {
    let program = folder.join("sanctum-mlx");
    let mut bytes = std::fs::read(binary()).expect("the binary");
    bytes.push(0);
    std::fs::write(&program, bytes).expect("ours");
    set_mode(&program, 0o755);
    program
}

#[test]
fn i1_what_is_installed_serves_tells_the_truth_and_goes_back() {
    let user = User::new();
    let said = user.done(binary(), &["install"]);
    assert!(said.contains("it is ready, and answers a chat"), "{said}");
    let installed = user.home().join("current/bin/sanctum-mlx");
    assert_eq!(user.wrong(&installed), Vec::<String>::new());
    let first = user.current();
    let pid = user.pid().expect("it runs");

    // Nothing that runs is in a folder that a build or a set-up owns.
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let files = maps.lines().filter_map(|line| line.split_once('/').map(|parts| parts.1));
    let stray = |file: &&str| file.contains("libmlx") && !Path::new("/").join(file).starts_with(&first);
    assert_eq!(files.filter(stray).collect::<Vec<_>>(), Vec::<&str>::new());

    let said = user.done(&installed, &["install"]);
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(user.pid(), Some(pid));

    // The build clean-up of 2026-04-19: told while the server still answers, on two channels of which neither asks it.
    let (program, aside) = (first.join("bin/sanctum-mlx"), first.join("aside"));
    std::fs::rename(&program, &aside).expect("ours");
    assert!(user.is_ready());
    let wrong = user.wrong(binary());
    assert!(
        wrong.contains(&"integrity_program".to_owned()) && wrong.contains(&"drift_release".to_owned()),
        "{wrong:?}"
    );
    // The watcher as its definition runs it: from a name of its own.
    let watcher = user.home().join("watchers/bin/sanctum-mlx");
    assert_eq!(user.run(&watcher, &["probe", "integrity", "--every-seconds", "300"]).status.code(), Some(1));
    assert_eq!(user.run(binary(), &["verify"]).status.code(), Some(1));
    let line = std::fs::read_to_string(user.home().join("logs/integrity.log")).expect("it has a log of its own");
    assert!(line.contains(r#""level":"error","event":"integrity_program""#), "{line}");
    std::fs::rename(&aside, &program).expect("ours");
    assert_eq!(user.wrong(binary()), Vec::<String>::new());

    // A newer build, and back.
    let newer = another_build(user.double.root());
    user.done(&newer, &["upgrade"]);
    assert_ne!(user.current(), first);
    assert_eq!(user.wrong(&installed), Vec::<String>::new());
    let since = Instant::now();
    user.done(&installed, &["rollback"]);
    println!("rollback with its load and a chat took {:.1} s", since.elapsed().as_secs_f64());
    assert_eq!(user.current(), first);
    assert_eq!(user.wrong(&installed), Vec::<String>::new());
    assert_ne!(user.pid(), Some(pid));

    user.done(binary(), &["uninstall"]);
    assert!(!user.is_ready());
    assert_eq!(user.run(binary(), &["status"]).status.code(), Some(78));
    assert!(user.home().join("config.toml").exists() && first.exists());
    tell_trials("I1", 1, 1);
}

#[test]
fn i3_a_release_that_does_not_answer_is_taken_back_and_said_so() {
    let user = User::new();
    user.done(binary(), &["install"]);
    let first = user.current();
    // From now on nobody can know the answer: the newer build is sound, and does not prove itself.
    let plan = "[canary]\nquestion = \"What is the capital of France?\"\nexpected = \"Atlantis\"\n";
    std::fs::write(user.home().join("watch.toml"), plan).expect("ours");
    let ended = user.run(&another_build(user.double.root()), &["upgrade"]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(78), "{said}");
    assert!(said.contains("does not contain Atlantis") && said.contains("was put back"), "{said}");
    assert_eq!(user.current(), first);
    eventually("the release before serves", || user.is_ready().then_some(()));
}

#[test]
fn i3_a_first_installation_that_does_not_answer_leaves_nothing_loaded() {
    let user = User::new();
    let plan = "[canary]\nquestion = \"What is the capital of France?\"\nexpected = \"Atlantis\"\n";
    std::fs::write(user.home().join("watch.toml"), plan).expect("ours");
    let ended = user.run(binary(), &["install"]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(78), "{said}");
    assert!(said.contains("does not contain Atlantis") && said.contains("nothing is installed again"), "{said}");
    assert!(user.pid().is_none() && !user.home().join("current").exists());
    assert_eq!(user.run(binary(), &["status"]).status.code(), Some(78));
}

#[test]
fn i3_nothing_is_installed_below_a_build_folder() {
    let user = User::new();
    std::fs::write(user.double.root().join("CACHEDIR.TAG"), "").expect("ours");
    let ended = user.run(binary(), &["install", "--no-start"]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(78) && said.contains("lies in the build folder"), "{said}");
    assert!(!user.home().join("releases").exists());
}

#[test]
fn i3_a_metallib_beside_the_program_is_installed_and_its_loss_is_told_before_a_start_needs_it() {
    let user = User::new();
    let program = another_build(user.double.root());
    std::fs::write(user.double.root().join("mlx.metallib"), "kernels").expect("ours");
    user.done(&program, &["install", "--no-start"]);
    let metallib = user.current().join("bin/mlx.metallib");
    assert_eq!(std::fs::read(&metallib).expect("it was copied"), b"kernels");
    std::fs::remove_file(&metallib).expect("ours");
    let watcher = user.home().join("watchers/bin/sanctum-mlx");
    let ended = user.run(&watcher, &["probe", "integrity", "--every-seconds", "300"]);
    let said = String::from_utf8_lossy(&ended.stdout);
    let told =
        said.lines().any(|line| line.contains(r#""event":"integrity_release""#) && line.contains("mlx.metallib"));
    assert!(told && ended.status.code() == Some(1), "{said}");
}
