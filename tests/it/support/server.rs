//! One server process under test: started on free ports with a home of its own, told by signals, waited for with a
//! deadline, killed when the test is over.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::http::Connection;

/// How a server is started.
pub struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    home: Option<PathBuf>,
}

/// A started server.
pub struct Running {
    child: Child,
    /// Kept until the process is gone.
    folder: Option<TempDir>,
    home: PathBuf,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// How a server ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code, or the negative number of the signal that killed it.
    pub code: i32,
    /// From the moment given to the end.
    pub after: Duration,
    /// Everything on stderr.
    pub stderr: String,
}

impl Server {
    /// A server on free loopback ports, with a drain of one second, unless other arguments say otherwise.
    pub fn new(model: &Path) -> Self {
        let arguments = vec!["serve".to_owned(), "--model".to_owned(), model.display().to_string()];
        Self { program: env!("CARGO_BIN_EXE_sanctum-mlx").into(), arguments, home: None }
    }

    /// Adds arguments.
    pub fn with<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Runs another copy of the binary.
    pub fn program(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Uses a home that outlives the process.
    pub fn at_home(mut self, home: &Path) -> Self {
        self.home = Some(home.to_owned());
        self
    }

    /// Starts the process and does not wait for it.
    pub fn start(self) -> Running {
        let folder = self.home.is_none().then(|| TempDir::new().expect("a folder for a home"));
        let home = self.home.unwrap_or_else(|| folder.as_ref().expect("made above").path().join("home"));
        let given = |flag: &str| self.arguments.iter().any(|argument| argument == flag);
        let defaults = [["--port", "0"], ["--tls-port", "0"], ["--drain-seconds", "1"]];
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(defaults.iter().filter(|[flag, _]| !given(flag)).flatten())
            .arg("--home")
            .arg(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut pipe = child.stderr.take().expect("stderr is piped");
        let collected = Arc::clone(&stderr);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                collected.lock().expect("no test panics with it").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Running { child, folder, home, stderr, reader: Some(reader) }
    }

    /// Starts the process and waits until it is ready.
    pub fn ready(self) -> Running {
        let mut running = self.start();
        running.until_ready();
        running
    }
}

impl Running {
    /// Waits for `state/serve.json`, which is written when ready.
    pub fn until_ready(&mut self) {
        let path = self.home.join("state/serve.json");
        let pid = u64::from(self.child.id());
        eventually("ready", || {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                panic!("the server ended with {status} before it was ready:\n{}", self.stderr());
            }
            let text = std::fs::read_to_string(&path).ok()?;
            let state: Value = serde_json::from_str(&text).expect("the file is written at once or not at all");
            (state["pid"].as_u64() == Some(pid)).then_some(())
        });
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid is an i32")
    }

    /// Where it keeps everything.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Everything on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no test panics with it").clone()
    }

    /// A listener's address as said on stderr, which comes before the model is loaded.
    pub fn announced(&self, listener: &str) -> Option<SocketAddr> {
        let stderr = self.stderr();
        let line = stderr.lines().find_map(|line| line.strip_prefix("listening: "))?;
        let mut parts = line.split(", ").filter_map(|part| part.split_once(' '));
        parts.find(|(name, _)| *name == listener)?.1.parse().ok()
    }

    fn address(&self, listener: &str) -> SocketAddr {
        let text = std::fs::read_to_string(self.home.join("state/serve.json")).expect("the server is ready");
        let state: Value = serde_json::from_str(&text).expect("it is JSON");
        let address = if state[listener].is_array() { &state[listener][0] } else { &state[listener] };
        address.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {listener} address in {text}"))
    }

    /// Every address of a kind of listener.
    pub fn all(&self, listener: &str) -> Vec<SocketAddr> {
        let text = std::fs::read_to_string(self.home.join("state/serve.json")).expect("the server is ready");
        let state: Value = serde_json::from_str(&text).expect("it is JSON");
        let addresses = state[listener].as_array().expect("a list of addresses");
        addresses.iter().map(|text| text.as_str().and_then(|text| text.parse().ok()).expect("an address")).collect()
    }

    /// The plain listener.
    pub fn plain(&self) -> SocketAddr {
        self.address("plain")
    }

    /// The mutual TLS listener.
    pub fn tls(&self) -> SocketAddr {
        self.address("tls")
    }

    /// The admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    /// A connection to the plain listener.
    pub fn connect(&self) -> Connection {
        Connection::to(self.plain())
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name}");
    }

    /// Waits for the end, measured from `since`.
    pub fn ended(mut self, since: Instant) -> Ended {
        let status = eventually("the end of the process", || self.child.try_wait().expect("the child is ours"));
        let after = since.elapsed();
        Ended { code: code(status), after, stderr: self.all_of_stderr() }
    }

    fn all_of_stderr(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader ends with the pipe");
        }
        self.stderr()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.folder.take());
    }
}

/// The exit code, or the negative number of the signal.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|number| -number)).expect("a process ends by a code or a signal")
}
