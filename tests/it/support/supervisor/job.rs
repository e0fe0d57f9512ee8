//! One loaded service: its process, when it is started again, and how it is ended. The same for both doubles.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::definition::{Definition, Pause};

/// What launchd tells of a service that it could not start (`EX_CONFIG`).
const CANNOT_START: i32 = 78;

/// A loaded service.
#[derive(Debug)]
pub struct Job {
    pub definition: Definition,
    child: Option<Child>,
    /// Processes so far; one that could not be started is none.
    pub runs: u32,
    /// The exit code, or the negative number of the signal.
    pub last_end: Option<i32>,
    begun: Option<Instant>,
    /// When a process that was told to end is killed.
    kill_at: Option<Instant>,
    due: Option<Instant>,
    /// It is started as soon as it has ended.
    again: bool,
    /// It was told to stop, and is not started again by itself.
    stopped: bool,
    /// It is forgotten as soon as it has ended.
    pub leaving: bool,
}

impl Job {
    pub fn new(definition: Definition) -> Self {
        let now = Instant::now();
        let due = if definition.at_load || definition.keep_alive {
            Some(now)
        } else {
            definition.every.map(|every| now + every)
        };
        Self {
            definition,
            child: None,
            runs: 0,
            last_end: None,
            begun: None,
            kill_at: None,
            due,
            again: false,
            stopped: false,
            leaving: false,
        }
    }

    /// One that waits to be started.
    pub fn idle(definition: Definition) -> Self {
        let mut job = Self::new(definition);
        (job.due, job.stopped) = (None, true);
        job
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What systemd calls its state.
    pub fn state(&self) -> &'static str {
        match (self.child.is_some(), self.stopped) {
            (true, true) => "deactivating",
            (true, false) => "active",
            (false, false) if self.definition.starts.is_some() => "active",
            (false, false) if self.due.is_some() => "activating",
            (false, _) => "inactive",
        }
    }

    /// Starts it at once, unless it runs.
    pub fn start(&mut self) {
        (self.stopped, self.due) = (false, Some(Instant::now()));
    }

    /// Ends it and does not start it again by itself.
    pub fn stop(&mut self) {
        (self.stopped, self.again, self.due) = (true, false, None);
        self.terminate();
    }

    /// Ends it and starts it again at once.
    pub fn restart(&mut self) {
        self.again = self.child.is_some();
        self.start();
        self.terminate();
    }

    fn terminate(&mut self) {
        if let Some(child) = &self.child
            && self.kill_at.is_none()
        {
            signal("TERM", &child.id().to_string());
            self.kill_at = Some(Instant::now() + self.definition.exit);
        }
    }

    /// Does what is due; the name of a service that a timer starts now.
    pub fn tick(&mut self, session: &[(String, String)]) -> Option<String> {
        let now = Instant::now();
        if let Some(child) = &mut self.child {
            let Some(status) = child.try_wait().expect("the child is ours") else {
                if self.kill_at.is_some_and(|at| now >= at) {
                    kill_group(child);
                }
                return None;
            };
            // What it left behind goes with it.
            kill_group(child);
            self.last_end = status.code().or_else(|| status.signal().map(|number| -number));
            (self.child, self.kill_at) = (None, None);
            self.plan(now);
        }
        if self.stopped || self.leaving || self.due.is_none_or(|due| now < due) {
            return None;
        }
        (self.due, self.begun) = (None, Some(now));
        if let Some(started) = &self.definition.starts {
            self.due = self.definition.every.map(|every| now + every);
            return Some(started.clone());
        }
        match spawn(&self.definition, session) {
            Ok(child) => (self.child, self.runs) = (Some(child), self.runs + 1),
            Err(_) => {
                self.last_end = Some(CANNOT_START);
                self.plan(now);
            }
        }
        None
    }

    /// It ended, or could not be started: when it is due.
    fn plan(&mut self, now: Instant) {
        let begun = self.begun.unwrap_or(now);
        self.due = if std::mem::take(&mut self.again) {
            Some(now)
        } else if self.definition.keep_alive {
            match self.definition.pause {
                Pause::BetweenStarts(pause) => Some(now.max(begun + pause)),
                Pause::AfterEnd(pause) => Some(now + pause),
            }
        } else {
            self.definition.every.map(|every| now.max(begun + every))
        };
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            kill_group(child);
            // Killed just now.
            let _ = child.wait();
        }
    }
}

fn spawn(definition: &Definition, session: &[(String, String)]) -> io::Result<Child> {
    let (program, arguments) = definition.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(arguments)
        .envs(session.iter().cloned())
        .envs(definition.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log(definition.stdout.as_deref())?)
        .stderr(log(definition.stderr.as_deref())?)
        .process_group(0)
        .spawn()
}

/// A log is appended to; one that cannot be written keeps the service from starting, as launchd has it.
fn log(path: Option<&Path>) -> io::Result<Stdio> {
    let Some(path) = path else { return Ok(Stdio::null()) };
    let file: File = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(file.into())
}

fn kill_group(leader: &Child) {
    signal("KILL", &format!("-{}", leader.id()));
}

/// That nobody is left is fine.
fn signal(name: &str, to: &str) {
    let mut kill = Command::new("kill");
    kill.args(["-s", name, "--", to]).stderr(Stdio::null()).status().expect("kill runs");
}
