//! An installation as production has it: the binary in a release folder behind `current`, a settings file, our own
//! definition of the server loaded by a double of the supervisor, and someone who hears the alerts. Companions tick when
//! the test says so, one tick being one cadence, unless their own definition is loaded.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::http::{Connection, chat};
use super::supervisor::{Double, Kind};
use super::{eventually, tiny};

/// What every site's settings say: a drain of a second, and stalls that are seen soon and end nothing.
const SETTINGS: &str = "drain_seconds = 1\nstall_degraded_seconds = 0.2\nstall_unready_seconds = 0.5\n\
    stall_dead_seconds = 60\nwatch_seconds = 0.1\nintegrity_seconds = 0.1\n";
/// The engine hangs at the third step.
pub const HANGS: &str = "fault = [\"spin_native@3\"]\n";

/// One installation.
pub struct Site {
    pub double: Double,
    pub home: PathBuf,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    kind: Kind,
}

/// A tick's exit code and the events of its lines.
pub type Ticked = (i32, Vec<String>);

impl Site {
    /// Installs; nothing is loaded. Pauses of the supervisor are multiplied by `scale`.
    pub fn new(kind: Kind, scale: f64) -> Self {
        let double = Double::new(kind, scale);
        let home = double.root().join("a home");
        let release = home.join("releases/0.1.0-test");
        for folder in [release.join("bin"), home.join("logs")] {
            fs::create_dir_all(folder).expect("the folder is ours");
        }
        fs::set_permissions(&home, Permissions::from_mode(0o700)).expect("the folder is ours");
        symlink(&release, home.join("current")).expect("the folder is ours");
        let [plain, tls] = free_ports();
        let site = Self { double, home, plain, tls, kind };
        site.put_program();
        site.configure("");
        site.watch("");
        site
    }

    /// What the supervisor calls the server.
    pub fn server(&self) -> &'static str {
        match self.kind {
            Kind::Launchd => "com.sanctum.mlx",
            Kind::Systemd => "sanctum-mlx.service",
        }
    }

    /// What the supervisor executes.
    pub fn program(&self) -> PathBuf {
        self.home.join("current/bin/sanctum-mlx")
    }

    /// Puts the binary where the supervisor executes it, whole or not at all.
    pub fn put_program(&self) {
        let beside = self.program().with_extension("new");
        fs::copy(env!("CARGO_BIN_EXE_sanctum-mlx"), &beside).expect("the folder is ours");
        fs::rename(beside, self.program()).expect("the folder is ours");
    }

    /// The settings of the next start.
    pub fn configure(&self, more: &str) {
        let (plain, tls) = (self.plain.port(), self.tls.port());
        let text = format!(
            "model = {:?}\nport = {plain}\ntls_port = {tls}\n{SETTINGS}{more}",
            tiny().to_str().expect("UTF-8")
        );
        fs::write(self.home.join("config.toml"), text).expect("the folder is ours");
    }

    /// Whoever is to be told is a program that appends to a file; `canary` is a part of watch.toml.
    pub fn watch(&self, canary: &str) {
        let heard = self.home.join("heard");
        let command = format!("cat >> '{0}'; echo >> '{0}'", heard.display());
        let text = format!("[alerts]\ncommand = [\"/bin/sh\", \"-c\", {command:?}]\n[canary]\n{canary}\n");
        fs::write(self.home.join("watch.toml"), text).expect("the folder is ours");
    }

    /// Alerts so far: the event, and whether it is over.
    pub fn heard(&self) -> Vec<(String, bool)> {
        let text = fs::read_to_string(self.home.join("heard")).unwrap_or_default();
        let alerts = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("each alert is JSON"));
        let word = |alert: &Value| alert["event"].as_str().expect("a word").to_owned();
        alerts.map(|alert| (word(&alert), alert["recovered"] == true)).collect()
    }

    /// Loads the server from our own definition and waits until it is ready.
    pub fn load(&self) -> u32 {
        let (name, template) = match self.kind {
            Kind::Launchd => ("com.sanctum.mlx.plist", include_str!("../../../launchd/com.sanctum.mlx.plist")),
            Kind::Systemd => ("sanctum-mlx.service", include_str!("../../../launchd/systemd/sanctum-mlx.service")),
        };
        self.start(name, template);
        self.until_ready()
    }

    /// Loads the guardian from our own definition: launchd's, at whose interval it ticks from now on.
    pub fn load_guardian(&self) {
        let template = include_str!("../../../launchd/com.sanctum.mlx-guardian.plist");
        self.start("com.sanctum.mlx-guardian.plist", template);
    }

    fn start(&self, name: &str, template: &str) {
        let listeners: String =
            self.urls().iter().map(|url| format!("<string>--listener</string><string>{url}</string>")).collect();
        let text = template
            .replace("{program}", self.program().to_str().expect("UTF-8"))
            .replace("{watcher}", env!("CARGO_BIN_EXE_sanctum-mlx"))
            .replace("{home}", self.home.to_str().expect("UTF-8"))
            .replace("{exit_seconds}", "40")
            .replace("{drain_seconds}", "1")
            .replace("{listeners}", &listeners);
        let path = self.double.definitions().join(name);
        fs::write(&path, text).expect("the folder is ours");
        let told = match self.kind {
            Kind::Launchd => self.double.call(&["bootstrap", "gui/0", path.to_str().expect("UTF-8")]),
            Kind::Systemd => self.double.call(&["--user", "start", name]),
        };
        assert_eq!(told, (0, String::new()));
    }

    fn urls(&self) -> [String; 2] {
        [format!("http://{}", self.plain), format!("https://{}", self.tls)]
    }

    /// Waits until the process that the supervisor has is ready; its number.
    pub fn until_ready(&self) -> u32 {
        eventually("ready", || {
            let pid = self.pid()?;
            (u64::from(pid) == self.bound()?["pid"].as_u64()?).then_some(pid)
        })
    }

    /// The server's process.
    pub fn pid(&self) -> Option<u32> {
        self.double.pid(self.server())
    }

    /// How many processes the server had.
    pub fn runs(&self) -> u32 {
        self.double.runs(self.server())
    }

    /// Events that a companion wrote into its log.
    pub fn events(&self, companion: &str) -> Vec<String> {
        let log = self.home.join(format!("logs/{companion}.log"));
        events(&fs::read_to_string(log).unwrap_or_default())
    }

    /// What the server said on stderr and in its log, in all its processes.
    pub fn log(&self) -> String {
        ["logs/serve.err", "logs/serve.log"]
            .map(|file| fs::read_to_string(self.home.join(file)).unwrap_or_default())
            .concat()
    }

    /// What the last server that was ready left of itself.
    fn bound(&self) -> Option<Value> {
        let text = fs::read_to_string(self.home.join("state/serve.json")).ok()?;
        Some(serde_json::from_str(&text).expect("it is written at once or not at all"))
    }

    /// `/health`, where clients cannot crowd us out.
    pub fn health(&self) -> Value {
        let bound = self.bound().expect("it was ready");
        let admin = bound["admin"].as_str().and_then(|admin| admin.parse().ok()).expect("an address");
        Connection::to(admin).get("/health").expect("an answer").json()
    }

    /// The status of `/v1/models`; `None` when nobody answers.
    pub fn models(&self) -> Option<u16> {
        Some(Connection::try_to(self.plain).ok()?.get("/v1/models").ok()?.status)
    }

    /// A request that hangs in the engine, and the moment from which `/v1/models` says so.
    pub fn hang(&self) -> (Connection, Instant) {
        let mut stuck = Connection::to(self.plain);
        stuck.send_chat(&chat("Count.", 64, false)).expect("the server reads");
        eventually("/v1/models says 503", || (self.models() == Some(503)).then_some(()));
        (stuck, Instant::now())
    }

    /// One tick of the guardian, which looks at both listeners.
    pub fn guardian(&self) -> Ticked {
        let listeners = self.urls();
        self.tick(&["guardian", "--drain-seconds", "1", "--listener", &listeners[0], "--listener", &listeners[1]])
    }

    /// One tick of the canary.
    pub fn canary(&self) -> Ticked {
        self.tick(&["canary", "--retry-seconds", "0", "--url", &self.urls()[0]])
    }

    /// One tick of the look whether the next start would boot.
    pub fn integrity(&self) -> Ticked {
        self.tick(&["probe", "integrity", "--every-seconds", "300"])
    }

    /// The companions run from a copy of the binary that stays, as `install` gives them one.
    fn tick(&self, words: &[&str]) -> Ticked {
        let mut command = self.double.command(Path::new(env!("CARGO_BIN_EXE_sanctum-mlx")));
        let ended = command.args(words).arg("--home").arg(&self.home).output().expect("the binary runs");
        (ended.status.code().expect("it exits"), events(&String::from_utf8(ended.stdout).expect("UTF-8")))
    }

    /// Asks a question; the status and what was answered.
    pub fn chat(&self) -> (u16, String) {
        let answer = Connection::to(self.plain).post_chat(&chat("Count.", 4, false)).expect("an answer");
        (answer.status, answer.body)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
    }
}

/// The events of a tick's lines.
fn events(lines: &str) -> Vec<String> {
    let event = |line| serde_json::from_str::<Value>(line).expect("each line is JSON")["event"].clone();
    lines.lines().map(|line| event(line).as_str().expect("a word").to_owned()).collect()
}

/// Sends a signal to one process.
pub fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args(["-s", name, &pid.to_string()]).status().expect("kill runs");
    assert!(status.success(), "kill -s {name} {pid}");
}

/// Two addresses on which nobody listens; nobody else asks for ports meanwhile.
fn free_ports() -> [SocketAddr; 2] {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let listeners = [bind(), bind()];
    listeners.map(|listener| listener.local_addr().expect("it is bound"))
}
