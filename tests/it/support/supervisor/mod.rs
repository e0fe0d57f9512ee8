//! Doubles of launchd and of the user's systemd: they read real definitions and really start, throttle, restart and kill
//! processes. The supervisor itself is two threads of the test, so that it needs no build of its own and ends with the
//! test; what the product calls is a program, `launchctl` or `systemctl`, that passes its words on over a loopback port.
//! Pauses between starts and intervals are multiplied by a scale; how long a process may take to end is not.

mod definition;
mod job;
mod launchctl;
mod systemctl;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::job::Job;
use self::systemctl::Wait;

/// How often it is looked what is due.
const LOOK: Duration = Duration::from_millis(5);
/// How long a call waits for an end that was asked for.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Who is doubled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Launchd,
    Systemd,
}

/// What a supervisor has loaded.
#[derive(Debug)]
pub struct Loaded {
    jobs: BTreeMap<String, Job>,
    /// What was enabled or disabled, by name.
    enabled: BTreeMap<String, bool>,
    scale: f64,
    /// Where systemd finds units.
    units: PathBuf,
}

/// A running double; everything it started ends with it.
pub struct Double {
    kind: Kind,
    folder: TempDir,
    loaded: Arc<Mutex<Loaded>>,
    over: Arc<AtomicBool>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

impl Double {
    /// Starts one whose pauses are multiplied by `scale`.
    pub fn new(kind: Kind, scale: f64) -> Self {
        let folder = TempDir::new().expect("a folder");
        let units = folder.path().join(".config/systemd/user");
        let loaded = Loaded { jobs: BTreeMap::new(), enabled: BTreeMap::new(), scale, units };
        let loaded = Arc::new(Mutex::new(loaded));
        let over = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut double = Self { kind, folder, loaded, over, address, threads: Vec::new() };
        std::fs::create_dir_all(double.definitions()).expect("the folder is ours");
        double.write_tool(address);
        let session = double.session();
        let (loaded, over) = (Arc::clone(&double.loaded), Arc::clone(&double.over));
        double.threads.push(std::thread::spawn(move || keep(&loaded, &over, &session)));
        let (loaded, over) = (Arc::clone(&double.loaded), Arc::clone(&double.over));
        double.threads.push(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let loaded = Arc::clone(&loaded);
                let stream = stream.expect("a loopback port accepts");
                std::thread::spawn(move || answer(stream, kind, &loaded));
            }
        }));
        double
    }

    /// The user's home folder.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Where definitions lie.
    pub fn definitions(&self) -> PathBuf {
        self.root().join(match self.kind {
            Kind::Launchd => "Library/LaunchAgents",
            Kind::Systemd => ".config/systemd/user",
        })
    }

    /// The program that speaks to this double.
    pub fn tool(&self) -> PathBuf {
        self.root().join("tools").join(match self.kind {
            Kind::Launchd => "launchctl",
            Kind::Systemd => "systemctl",
        })
    }

    /// A program run in this user's session, where the product finds the tool.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.envs(self.session());
        command
    }

    /// Calls the tool: the exit code, and what it said.
    pub fn call(&self, words: &[&str]) -> (i32, String) {
        let ended = Command::new(self.tool()).args(words).output().expect("bash runs");
        let said = [ended.stdout, ended.stderr].concat();
        (ended.status.code().expect("it exits"), String::from_utf8(said).expect("UTF-8"))
    }

    /// The process of a service.
    pub fn pid(&self, name: &str) -> Option<u32> {
        lock(&self.loaded).jobs.get(name)?.pid()
    }

    /// How many processes a service had so far.
    pub fn runs(&self, name: &str) -> u32 {
        lock(&self.loaded).jobs.get(name).map_or(0, |job| job.runs)
    }

    /// How a service's last process ended: an exit code, or the negative number of a signal.
    pub fn last_end(&self, name: &str) -> Option<i32> {
        lock(&self.loaded).jobs.get(name)?.last_end
    }

    /// What the tool's users have in their environment.
    fn session(&self) -> Vec<(String, String)> {
        let tools = self.root().join("tools").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut session = vec![
            ("HOME".to_owned(), self.root().display().to_string()),
            ("PATH".to_owned(), format!("{tools}:{path}")),
        ];
        if self.kind == Kind::Launchd {
            session.push(("SANCTUM_MLX_LAUNCHCTL".to_owned(), self.tool().display().to_string()));
        }
        session
    }

    fn write_tool(&self, address: SocketAddr) {
        let script = format!(
            "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{} || exit 71\nprintf '%s\\n' \"$#\" \"$@\" >&3\n\
             read -r code <&3\n[ \"$code\" = 0 ] && cat <&3 || cat <&3 >&2\nexit \"$code\"\n",
            address.port()
        );
        let tool = self.tool();
        std::fs::create_dir_all(tool.parent().expect("a folder")).expect("the folder is ours");
        std::fs::write(&tool, script).expect("the folder is ours");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the listener; that it is gone already is fine.
        let _ = TcpStream::connect(self.address);
        self.threads.drain(..).for_each(|thread| thread.join().expect("the double does not panic"));
        lock(&self.loaded).jobs.clear();
    }
}

fn lock(loaded: &Mutex<Loaded>) -> MutexGuard<'_, Loaded> {
    loaded.lock().expect("the double does not panic")
}

/// Starts what is due and notices what ended, until the double is over.
fn keep(loaded: &Mutex<Loaded>, over: &AtomicBool, session: &[(String, String)]) {
    while !over.load(Ordering::Acquire) {
        let mut loaded = lock(loaded);
        let started: Vec<String> = loaded.jobs.values_mut().filter_map(|job| job.tick(session)).collect();
        started.iter().for_each(|unit| systemctl::start(&mut loaded, unit));
        loaded.jobs.retain(|_, job| !job.leaving || job.pid().is_some());
        drop(loaded);
        std::thread::park_timeout(LOOK);
    }
}

/// One call of the tool. One that went away is told nothing.
fn answer(stream: TcpStream, kind: Kind, loaded: &Mutex<Loaded>) {
    let mut stream = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        Some(line.strip_suffix('\n')?.to_owned())
    };
    let Some(count) = line().and_then(|count| count.parse::<usize>().ok()) else { return };
    let words: Vec<String> = std::iter::from_fn(&mut line).take(count).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (code, said) = match kind {
        Kind::Launchd => launchctl::call(&mut lock(loaded), &words),
        Kind::Systemd => {
            let (code, said, wait) = systemctl::call(&mut lock(loaded), &words);
            until(loaded, &wait);
            (code, said)
        }
    };
    let _ = stream.get_mut().write_all(format!("{code}\n{said}").as_bytes());
}

fn until(loaded: &Mutex<Loaded>, wait: &Wait) {
    let Wait::Ended(unit) = wait else { return };
    let begun = Instant::now();
    while lock(loaded).jobs.get(unit).is_some_and(|job| job.pid().is_some()) && begun.elapsed() < STOP_LIMIT {
        std::thread::park_timeout(LOOK);
    }
}
