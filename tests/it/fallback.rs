//! Another server in the place of one that no restart can help, and back, with real processes below doubles of launchd and
//! systemd (P9). The fallback is a small HTTP server that stands for `mlx_lm.server`: it has the server's port, lists no
//! model, and answers every chat.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::incident::right_answer;
use crate::support::eventually;
use crate::support::site::{Site, signal};
use crate::support::supervisor::Kind;

/// Ten seconds of throttle are half a second.
const SCALE: f64 = 0.05;

const SERVER: &str = r#"#!/usr/bin/env python3
import http.server, json, pathlib, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.answer({"object": "list", "data": []})

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        content = pathlib.Path(sys.argv[2]).read_text()
        self.answer({"choices": [{"message": {"role": "assistant", "content": content}}]})

    def log_message(self, *words):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// A server that serves, and a fallback that could.
struct Pair {
    site: Site,
    kind: Kind,
}

impl Pair {
    fn new(kind: Kind) -> Self {
        let pair = Self { site: Site::new(kind, SCALE), kind };
        pair.site.load();
        let expected = right_answer(&pair.site);
        let url = format!("http://{}", pair.site.plain);
        let expected_in_toml = Value::from(expected.as_str());
        pair.site.watch(&format!("expected = {expected_in_toml}\n[fallback]\nenabled = true\nurl = \"{url}\""));
        fs::write(pair.answer(), format!("the fallback says {expected}")).expect("the folder is ours");
        fs::write(pair.interpreter(), SERVER).expect("the folder is ours");
        fs::set_permissions(pair.interpreter(), Permissions::from_mode(0o755)).expect("the file is ours");
        fs::write(pair.definition(), pair.defined()).expect("the folder is ours");
        pair
    }

    fn interpreter(&self) -> PathBuf {
        self.site.double.root().join("mlx_lm.server")
    }

    /// What the fallback answers.
    fn answer(&self) -> PathBuf {
        self.site.double.root().join("answer")
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Launchd => "com.sanctum.server-mlx",
            Kind::Systemd => "sanctum-mlx-fallback.service",
        }
    }

    fn definition(&self) -> PathBuf {
        let file = match self.kind {
            Kind::Launchd => format!("{}.plist", self.name()),
            Kind::Systemd => self.name().to_owned(),
        };
        self.site.double.definitions().join(file)
    }

    fn defined(&self) -> String {
        let (program, answer, port) = (self.interpreter(), self.answer(), self.site.plain.port());
        let (program, answer) = (program.display(), answer.display());
        match self.kind {
            Kind::Launchd => format!(
                "<?xml version=\"1.0\"?><plist version=\"1.0\"><dict><key>Label</key><string>{}</string>\
                 <key>ProgramArguments</key><array><string>{program}</string><string>{port}</string>\
                 <string>{answer}</string></array><key>RunAtLoad</key><true/><key>KeepAlive</key><true/></dict></plist>",
                self.name()
            ),
            Kind::Systemd => {
                format!("[Service]\nExecStart=:\"{program}\" {port} \"{answer}\"\nRestart=always\nRestartSec=10\n")
            }
        }
    }

    /// `fallback …`, or another command: its exit code and everything it said.
    fn run(&self, words: &[&str]) -> (i32, String) {
        let mut command = self.site.double.command(Path::new(env!("CARGO_BIN_EXE_sanctum-mlx")));
        let ended = command.args(words).arg("--home").arg(&self.site.home).output().expect("the binary runs");
        let said = [ended.stdout, ended.stderr].concat();
        (ended.status.code().expect("it exits"), String::from_utf8(said).expect("UTF-8"))
    }

    /// What must end like this and say so.
    fn says(&self, words: &[&str], code: i32, said: &str) -> String {
        let (ended, text) = self.run(words);
        assert!(ended == code && text.contains(said), "{words:?} ended with {ended}:\n{text}");
        text
    }

    /// The processes of the server and of the fallback.
    fn pids(&self) -> (Option<u32>, Option<u32>) {
        (self.site.pid(), self.site.double.pid(self.name()))
    }

    fn word(&self) -> Option<Value> {
        let text = fs::read_to_string(self.site.home.join("state/fallback.json")).ok()?;
        Some(serde_json::from_str(&text).expect("it is written at once or not at all"))
    }
}

fn ticked(code: i32, events: &[&str]) -> (i32, Vec<String>) {
    (code, events.iter().map(|event| (*event).to_owned()).collect())
}

#[test]
fn p9_a_server_whose_binary_is_gone_gives_way_to_the_fallback_which_the_watchers_follow_and_comes_back() {
    let pair = Pair::new(Kind::Launchd);
    let site = &pair.site;
    fs::remove_file(site.program()).expect("the file is ours");
    signal("KILL", site.pid().expect("it serves"));
    eventually("the end", || site.pid().is_none().then_some(()));
    let ticks: Vec<_> = (0..3).map(|_| site.guardian()).collect();
    assert_eq!(ticks[1..], [ticked(1, &["guardian_failed"]), ticked(1, &["fallback_activated"])]);
    eventually("the fallback answers where the server did", || (site.models() == Some(200)).then_some(()));
    let pids = pair.pids();
    assert!(pids.0.is_none() && pids.1.is_some(), "{pids:?}");
    let why = pair.word().expect("there is a word")["why"].as_str().expect("a reason").to_owned();
    assert!(why.contains("would not boot"), "{why}");

    // Everyone looks at the fallback, and says so; nobody restarts the server.
    for _ in 0..4 {
        assert_eq!(site.guardian(), ticked(0, &["fallback_activated", "guardian_ok"]));
    }
    assert_eq!(site.canary(), ticked(0, &["canary_ok", "fallback_serving"]));
    let text = pair.says(&["probe", "integrity"], 1, "fallback_serving");
    assert!(text.contains("integrity_program") && !text.contains("integrity_definition"), "{text}");
    assert_eq!(pair.pids(), pids);

    // One direction, and nobody loads the server behind the fallback's back.
    pair.says(&["fallback", "activate"], 2, "there is no fallback from the fallback");
    pair.says(&["install"], 78, "fallback restore");
    pair.says(&["fallback", "restore"], 2, "would not boot");
    assert_eq!(pair.pids(), pids);
    let at_login = |definition: &Path| site.double.call(&["bootstrap", "gui/0", definition.to_str().expect("UTF-8")]).0;
    let primary = site.double.definitions().join("com.sanctum.mlx.plist");
    assert_eq!(at_login(&primary), 119, "the server is disabled while the fallback has its port");

    site.put_program();
    pair.says(&["fallback", "restore"], 0, "is ready, and answers a chat");
    assert_eq!((site.chat().0, pair.pids().1, pair.word()), (200, None, None));
    assert_eq!(at_login(&pair.definition()), 119, "the fallback is disabled while the server has its port");
    assert_eq!(site.guardian(), ticked(0, &["guardian_ok"]));
    assert_eq!(site.canary(), ticked(0, &["canary_ok"]));
    let heard: Vec<_> = site.heard().into_iter().filter(|(event, _)| event == "fallback_activated").collect();
    assert_eq!(heard, [false, true].map(|over| ("fallback_activated".to_owned(), over)));
}

fn a_drill_goes_there_and_back(kind: Kind) {
    let pair = Pair::new(kind);
    let before = pair.site.pid();
    let text = pair.says(&["fallback", "drill"], 0, "is ready, and answers a chat");
    for way in ["activate", "restore"] {
        let line = format!("{way}: nobody answered for ");
        let gap = text.lines().find_map(|said| said.strip_prefix(&line)?.strip_suffix(" ms")?.parse::<u64>().ok());
        println!("{way}: {gap:?} ms");
        assert!(gap.is_some_and(|gap| gap > 0), "{text}");
    }
    let pids = pair.pids();
    assert!(pids.0.is_some() && pids.0 != before && pids.1.is_none(), "{pids:?}, before {before:?}");
    assert_eq!((pair.word(), pair.site.chat().0), (None, 200));
    assert_eq!(pair.site.guardian(), ticked(0, &["guardian_ok"]));
    pair.says(&["fallback", "status"], 0, "could be activated");
}

#[test]
fn p9_a_drill_below_launchd_measures_both_ways_and_leaves_the_server_serving() {
    a_drill_goes_there_and_back(Kind::Launchd);
}

#[test]
#[cfg(target_os = "linux")]
fn p9_a_drill_below_systemd_measures_both_ways_and_leaves_the_server_serving() {
    a_drill_goes_there_and_back(Kind::Systemd);
}

#[test]
fn p9_a_fallback_is_defined_for_mlx_lm_and_its_interpreter_must_be_there() {
    let pair = Pair::new(Kind::Launchd);
    fs::remove_file(pair.definition()).expect("the file is ours");
    let python = pair.interpreter().display().to_string();
    let define = ["fallback", "define", "--model", "some/model", "--python"];
    let with = |python: &str| [&define[..], &[python]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let said = |python: &str, code, words: &str| {
        let all = with(python);
        pair.says(&all.iter().map(String::as_str).collect::<Vec<_>>(), code, words)
    };
    said("/nowhere/python3", 2, "--python: /nowhere/python3");
    said("python3", 2, "no absolute path");
    assert!(!pair.definition().exists());
    said(&python, 0, "defines the fallback");
    let text = fs::read_to_string(pair.definition()).expect("it was written");
    assert!(text.contains(&python) && text.contains(&format!("<string>{}</string>", pair.site.plain.port())), "{text}");
    pair.says(&["fallback", "status"], 0, "could be activated");
}

#[test]
fn p9_a_fallback_that_could_not_start_is_refused_and_the_server_is_not_touched() {
    let pair = Pair::new(Kind::Launchd);
    let before = pair.pids();
    fs::remove_file(pair.interpreter()).expect("the file is ours");
    pair.says(&["fallback", "activate"], 2, "the fallback's interpreter");
    pair.says(&["fallback", "drill"], 2, "the fallback's interpreter");
    fs::remove_file(pair.definition()).expect("the file is ours");
    pair.says(&["fallback", "activate"], 2, "which defines the fallback");
    pair.says(&["fallback", "status"], 0, "could not be activated");
    pair.says(&["fallback", "restore"], 2, "there is nothing to go back from");
    pair.site.watch("");
    pair.says(&["fallback", "activate"], 2, "no fallback is configured");
    assert_eq!((pair.pids(), pair.word(), pair.site.models()), (before, None, Some(200)));
}

#[test]
fn p9_a_server_that_does_not_answer_after_its_return_leaves_the_fallback_serving() {
    let pair = Pair::new(Kind::Launchd);
    pair.says(&["fallback", "activate", "--why", "weights are exchanged"], 0, "answers a chat");
    assert_eq!(pair.word().expect("there is a word")["why"], "weights are exchanged");
    pair.says(&["fallback", "status"], 1, "weights are exchanged");
    pair.site.configure("fault = [\"empty@1\"]\n");
    pair.says(&["fallback", "restore"], 2, "com.sanctum.server-mlx was loaded again");
    eventually("the fallback answers again", || (pair.site.models() == Some(200)).then_some(()));
    let pids = pair.pids();
    assert!(pids.0.is_none() && pids.1.is_some() && pair.word().is_some(), "{pids:?}");
    pair.site.configure("");
    pair.says(&["fallback", "restore"], 0, "is ready, and answers a chat");
    assert_eq!((pair.word(), pair.pids().1, pair.site.chat().0), (None, None, 200));
}
