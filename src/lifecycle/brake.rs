//! The crash-loop brake (L11): a server that its supervisor starts again and again, and that ends badly each time, stops
//! loading its model and says so instead. It owns the count of starts, on disk, and when the next load may be tried; it
//! refuses to know why the starts failed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::platform::files;

/// A pause doubles up to this many times the first one.
const PAUSE_FACTOR_MAX: u32 = 6;
/// Starts that are remembered; more say nothing new.
const REMEMBERED: usize = 64;
/// What a process that was killed ends with, for it could not write it down.
const UNTOLD: &str = "it was killed, or crashed without a word";

/// How the brake is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrakeLimits {
    /// Bad ends within the window from which on the next start does not load; 0: never.
    pub starts: u32,
    /// The window, and the first pause.
    pub window: Duration,
}

/// One start and its end. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    at: u64,
    /// The exit code; `None` while it runs, and for ever when nobody could write it.
    code: Option<i32>,
    /// It loaded nothing, so that its end says nothing.
    limped: bool,
}

/// What is kept on disk.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct History {
    starts: Vec<Start>,
    /// Pauses in a row.
    pauses: u32,
    /// No load before this.
    until: Option<u64>,
}

/// The server must not load yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limp {
    /// From now on.
    pub pause: Duration,
    /// How often and how it ended, for everyone who asks.
    pub reason: String,
}

impl History {
    /// Judges a start at `now` and notes it.
    fn start(&mut self, now: u64, limits: BrakeLimits) -> Option<Limp> {
        let window = millis(limits.window);
        let bad: Vec<&Start> = self
            .starts
            .iter()
            .filter(|start| !start.limped && start.code != Some(0) && start.at <= now && now - start.at < window)
            .collect();
        let (count, last) = (bad.len(), bad.last().map(|start| start.code));
        let longest = window.saturating_mul(u64::from(PAUSE_FACTOR_MAX));
        let before = self.until.take();
        // A time that no pause can reach was written under another clock.
        let paused = before.filter(|until| *until > now && until - now <= longest);
        // The first load after a pause finds a quiet window too; that is no merit yet.
        let forgiven = count == 0 && before.is_none_or(|until| now > until.saturating_add(window));
        if before.is_none() && limits.starts > 0 && count >= limits.starts as usize {
            let factor = 2_u32.saturating_pow(self.pauses).min(PAUSE_FACTOR_MAX);
            self.pauses = self.pauses.saturating_add(1);
            self.until = Some(now + window * u64::from(factor));
        } else if paused.is_some() && limits.starts > 0 {
            self.until = paused;
        } else if forgiven {
            self.pauses = 0;
        }
        self.starts.push(Start { at: now, code: None, limped: self.until.is_some() });
        self.starts.drain(..self.starts.len().saturating_sub(REMEMBERED));
        let until = self.until?;
        let how = match last.flatten() {
            Some(code) => format!("exit {code}"),
            None => UNTOLD.to_owned(),
        };
        let reason = format!("{count} starts within {} s ended badly, the last one: {how}", window / 1_000);
        Some(Limp { pause: Duration::from_millis(until - now), reason })
    }

    fn end(&mut self, code: i32) {
        if let Some(start) = self.starts.last_mut() {
            start.code = Some(code);
        }
    }

    /// Ends with this code within the window before `now`.
    fn ends(&self, code: i32, now: u64, window: Duration) -> usize {
        let recent = |start: &&Start| start.at <= now && now - start.at < millis(window);
        self.starts.iter().filter(recent).filter(|start| start.code == Some(code)).count()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// The brake of this process.
#[derive(Debug)]
pub struct Brake {
    path: PathBuf,
    limits: BrakeLimits,
    history: Mutex<History>,
}

impl Brake {
    /// Reads what earlier processes left at `path`, judges this start and notes it. A file that cannot be read counts
    /// for nothing: a brake must not keep a sound server from starting.
    #[must_use]
    pub fn start(path: &Path, limits: BrakeLimits) -> (Self, Option<Limp>) {
        let left = fs::read(path).ok().and_then(|text| serde_json::from_slice::<History>(&text).ok());
        let mut history = left.unwrap_or_default();
        let limp = history.start(now(), limits);
        let brake = Self { path: path.to_owned(), limits, history: Mutex::new(history) };
        brake.keep();
        (brake, limp)
    }

    /// Notes how the process ends.
    pub fn end(&self, code: i32) {
        self.history.lock().end(code);
        self.keep();
    }

    /// Whether so many processes in a row ended with `code` within the window that the supervisor should be slowed.
    #[must_use]
    pub fn repeats(&self, code: i32) -> bool {
        let ends = self.history.lock().ends(code, now(), self.limits.window);
        self.limits.starts > 0 && ends >= self.limits.starts as usize
    }

    fn keep(&self) {
        let history = self.history.lock().clone();
        let bytes = serde_json::to_vec(&history).expect("numbers are JSON");
        if let Err(error) = files::keep(&self.path, &bytes, 0o600) {
            tracing::warn!(%error, path = %self.path.display(), "starts cannot be counted");
        }
    }
}

/// A gate that opens after a pause, or when somebody opens it.
#[derive(Debug, Default)]
pub struct Pause {
    opened: Mutex<bool>,
    changed: Condvar,
}

impl Pause {
    /// Waits until it is over.
    pub fn wait(&self, pause: Duration) {
        let mut opened = self.opened.lock();
        let _ = self.changed.wait_while_for(&mut opened, |opened| !*opened, pause);
    }

    /// Ends it now, also one that has not begun.
    pub fn end(&self) {
        *self.opened.lock() = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: BrakeLimits = BrakeLimits { starts: 5, window: Duration::from_secs(600) };
    const SECOND: u64 = 1_000;

    /// Starts at these seconds, each of which ends with the code; whether each may load.
    fn loads(history: &mut History, starts: &[u64], code: Option<i32>) -> Vec<bool> {
        let start = |at: &u64| {
            let limp = history.start(at * SECOND, LIMITS);
            if let Some(code) = code {
                history.end(code);
            }
            limp.is_none()
        };
        starts.iter().map(start).collect()
    }

    #[test]
    fn l11_the_sixth_start_after_five_bad_ends_does_not_load_and_good_ends_do_not_count() {
        for code in [Some(70), Some(78), None] {
            let mut history = History::default();
            let each = loads(&mut history, &[0, 10, 20, 30, 40, 50, 60], code);
            assert_eq!(each, [true, true, true, true, true, false, false], "{code:?}");
        }
        assert!(loads(&mut History::default(), &[0, 1, 2, 3, 4, 5, 6, 7], Some(0)).iter().all(|loads| *loads));
        let slow: Vec<u64> = (0..20).map(|start| start * 150).collect();
        assert!(loads(&mut History::default(), &slow, Some(70)).iter().all(|loads| *loads), "four in a window");
    }

    #[test]
    fn l11_pauses_double_up_to_an_hour_and_a_quiet_window_forgives() {
        let mut history = History::default();
        let mut at = 0;
        let mut pause = |history: &mut History| loop {
            at += 10;
            if let Some(limp) = history.start(at * SECOND, LIMITS) {
                at += limp.pause.as_secs();
                return limp.pause.as_secs();
            }
            history.end(70);
        };
        assert_eq!([(); 5].map(|()| pause(&mut history)), [600, 1_200, 2_400, 3_600, 3_600]);
        assert_eq!(history.start(10_000_000 * SECOND, LIMITS), None);
        assert_eq!(history.pauses, 0);
    }

    #[test]
    fn l11_a_process_that_limps_and_is_started_again_limps_on_and_tells_why() {
        let mut history = History::default();
        loads(&mut history, &[0, 1, 2, 3, 4], Some(70));
        let first = history.start(5 * SECOND, LIMITS).unwrap();
        assert_eq!(
            (first.pause, first.reason.as_str()),
            (Duration::from_secs(600), "5 starts within 600 s ended badly, the last one: exit 70")
        );
        history.end(0);
        assert_eq!(history.start(105 * SECOND, LIMITS).unwrap().pause, Duration::from_secs(500));
        assert_eq!(history.start(606 * SECOND, LIMITS), None, "the pause is over");
        assert_eq!(history.start(SECOND, BrakeLimits { starts: 0, ..LIMITS }), None, "turned off");
    }

    #[test]
    fn a_brake_survives_the_process_and_a_torn_file_counts_for_nothing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("state/starts.json");
        for _ in 0..5 {
            let (brake, limp) = Brake::start(&path, LIMITS);
            assert_eq!(limp, None);
            brake.end(78);
        }
        let (brake, limp) = Brake::start(&path, LIMITS);
        assert!(limp.is_some() && brake.repeats(78) && !brake.repeats(70));
        fs::write(&path, "{\"starts\":[").unwrap();
        assert_eq!(Brake::start(&path, LIMITS).1, None);
    }

    #[test]
    fn a_pause_ends_by_itself_or_when_it_is_told_to() {
        let pause = Pause::default();
        pause.wait(Duration::from_millis(1));
        pause.end();
        pause.wait(Duration::from_secs(3_600));
    }
}
