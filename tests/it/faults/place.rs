//! A whole installation under test: laid down by `install`, its server started by a double of systemd from our own unit,
//! with a model of its own that may be damaged. Watchers run from their own names, as their definitions run them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::channel::Channel;
use crate::support::http::Connection;
use crate::support::site::Site;
use crate::support::supervisor::Kind;
use crate::support::{eventually, tiny};

/// Of systemd's pauses: ten seconds before a start are one.
const PAUSES: f64 = 0.1;
/// `nobody`, on every Linux.
const NOBODY: u32 = 65_534;

/// Two listeners and the second look at the admin listener, each of at most two seconds.
pub const GUARDIAN: Channel =
    Channel { name: "guardian", every: Duration::from_secs(60), limit: Duration::from_secs(6) };
/// Two tries of at most five seconds, with no pause between them.
pub const CANARY: Channel = Channel { name: "canary", every: Duration::from_secs(600), limit: Duration::from_secs(10) };
/// A hash of the program when it changed, and a question to the supervisor.
pub const INTEGRITY: Channel =
    Channel { name: "integrity", every: Duration::from_secs(300), limit: Duration::from_secs(5) };
/// A hash of everything that changed.
pub const DRIFT: Channel = Channel { name: "drift", every: Duration::from_secs(3_600), limit: Duration::from_secs(5) };

/// The installation.
pub struct Place {
    pub site: Site,
}

impl Place {
    /// Installs, and starts the server alone.
    pub fn new() -> Self {
        let place = Self { site: Site::new(Kind::Systemd, PAUSES) };
        fs::copy(tiny(), place.model()).expect("the folder is ours");
        place.configure("");
        let mut install = place.site.double.command(Path::new(env!("CARGO_BIN_EXE_sanctum-mlx")));
        let ended = install.args(["install", "--no-start", "--home"]).arg(place.home()).output().expect("it runs");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        place.start();
        let answer = place.right_answer();
        place.site.watch(&format!("expected = {}", serde_json::Value::from(answer)));
        place
    }

    pub fn home(&self) -> &Path {
        &self.site.home
    }

    /// The file of the model's weights.
    pub fn model(&self) -> PathBuf {
        self.home().join("model.gguf")
    }

    /// A file of the release that `current` names, and its second name, which the watchers use.
    pub fn names(&self, file: &str) -> [PathBuf; 2] {
        ["current", "watchers"].map(|link| self.home().join(link).join(file))
    }

    /// Puts a file of the release back, the same one as before.
    pub fn put_back(&self, file: &str) {
        let [name, other] = self.names(file);
        // One that is not there need not be removed.
        let _ = fs::remove_file(&name);
        fs::hard_link(other, name).expect("the folder is ours");
    }

    /// The settings of the next start. Starts that fail here put no brake on those that follow.
    pub fn configure(&self, more: &str) {
        self.site.configure(&format!("crash_loop_starts = 0\n{more}"));
        let file = self.home().join("config.toml");
        let text = fs::read_to_string(&file).expect("it was just written");
        let text = text.replace(tiny().to_str().expect("UTF-8"), self.model().to_str().expect("UTF-8"));
        fs::write(&file, text).expect("the folder is ours");
    }

    pub fn systemctl(&self, words: &[&str]) {
        assert_eq!(self.site.double.call(&[&["--user"], words].concat()), (0, String::new()), "{words:?}");
    }

    pub fn start(&self) {
        self.systemctl(&["start", self.site.server()]);
        self.site.until_ready();
    }

    /// Starts the server anew with these settings, and waits until it is ready.
    pub fn restart(&self, settings: &str) {
        self.configure(settings);
        let before = self.site.pid();
        self.systemctl(&["restart", self.site.server()]);
        eventually("another process", || (self.site.pid() != before).then_some(()));
        self.site.until_ready();
        self.configure("");
    }

    /// A watcher's next tick.
    pub fn tick(&self, channel: Channel) -> Command {
        let listener = |scheme: &str, address| format!("{scheme}://{address}");
        let (plain, tls) = (listener("http", self.site.plain), listener("https", self.site.tls));
        let words: Vec<&str> = match channel.name {
            "guardian" => {
                let limits = ["guardian", "--drain-seconds", "1", "--timeout-seconds", "2"];
                [&limits[..], &["--listener", &plain, "--listener", &tls]].concat()
            }
            "canary" => vec!["canary", "--retry-seconds", "0", "--timeout-seconds", "5", "--url", &plain],
            "integrity" => return self.integrity("1"),
            "drift" => vec!["drift"],
            other => unreachable!("no watcher is called {other}"),
        };
        self.watcher(&words)
    }

    /// A tick of integrity that wants so much room.
    pub fn integrity(&self, floor_mb: &str) -> Command {
        self.watcher(&["probe", "integrity", "--every-seconds", "300", "--disk-floor-mb", floor_mb])
    }

    fn watcher(&self, words: &[&str]) -> Command {
        let mut command = self.site.double.command(&self.names("bin/sanctum-mlx")[1]);
        command.args(words).arg("--home").arg(self.home());
        command
    }

    /// A part of the answer to the canary's question that is long enough for nothing else to contain it.
    fn right_answer(&self) -> String {
        let body = json!({
            "messages": [{"role": "user", "content": "What is 2+2? Respond with only the number."}],
            "temperature": 0,
            "max_completion_tokens": 512,
        });
        let answer = Connection::to(self.site.plain).post_chat(&body.to_string()).expect("an answer").json();
        let text = answer["choices"][0]["message"]["content"].as_str().expect("a text");
        let parts = text.split(char::is_control).max_by_key(|part| part.len());
        parts.expect("a text has a part").trim().chars().take(12).collect()
    }
}

/// A home of somebody who is not the superuser, for whom modes mean something.
pub struct Unprivileged {
    folder: TempDir,
    /// `None` when we are nobody special ourselves.
    user: Option<u32>,
    systemctl: PathBuf,
}

impl Unprivileged {
    /// With the same program, under names that everyone may use.
    pub fn beside(place: &Place) -> Self {
        let folder = TempDir::new().expect("a folder");
        let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o755)).expect("ours");
        open(folder.path());
        for part in ["bin", "lib"] {
            let to = folder.path().join(part);
            fs::create_dir(&to).expect("ours");
            open(&to);
            for entry in fs::read_dir(&place.names(part)[1]).expect("the release has it") {
                let from = entry.expect("ours").path();
                fs::hard_link(&from, to.join(from.file_name().expect("a name"))).expect("on the same disk");
            }
        }
        let systemctl = folder.path().join("bin/systemctl");
        fs::copy(place.site.double.tool(), &systemctl).expect("ours");
        open(&systemctl);
        let user = (fs::metadata(folder.path()).expect("ours").uid() == 0).then_some(NOBODY);
        let own = Self { folder, user, systemctl };
        for path in [own.home(), own.logs()] {
            fs::create_dir(&path).expect("ours");
            fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("ours");
            chown(&path, own.user, own.user).expect("to us, or by the superuser");
        }
        own
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub fn logs(&self) -> PathBuf {
        self.home().join("logs")
    }

    /// A tick of integrity as that user.
    pub fn integrity(&self) -> Command {
        let mut command = Command::new(self.folder.path().join("bin/sanctum-mlx"));
        command.args(["probe", "integrity", "--every-seconds", "300", "--disk-floor-mb", "1", "--home"]);
        let tools = self.systemctl.parent().expect("a folder").display();
        let path = std::env::var("PATH").unwrap_or_default();
        command.arg(self.home()).env("HOME", self.home()).env("PATH", format!("{tools}:{path}")).current_dir("/");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }
}
