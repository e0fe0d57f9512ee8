//! What the kernel says about processes and load, read from `/proc`. Elsewhere than on Linux these rows cannot be had.

use std::fs;
use std::path::Path;
use std::time::Instant;

/// Ticks in a second of `/proc/stat`; the kernel's interface fixes it.
const TICKS_A_SECOND: f64 = 100.0;

/// Cores that we may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The processor time of the machine and of everything that belongs to the measurement at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    busy_ticks: f64,
    own_seconds: f64,
}

impl Load {
    /// `own` are processes besides this one and those that it has waited for.
    pub fn now(own: &[Process]) -> Self {
        let stat = fs::read_to_string("/proc/stat").expect("Linux says what its cores do");
        let cpu = stat.lines().next().expect("the first line is the sum of all cores");
        let ticks: Vec<f64> = cpu.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // user nice system (idle iowait) irq softirq steal: what a neighbour on the same host takes counts as well.
        let busy_ticks = [0, 1, 2, 5, 6, 7].iter().map(|&at| ticks[at]).sum();
        let this = Process::this();
        let others: f64 = own.iter().map(Process::cpu_seconds).sum();
        Self { busy_ticks, own_seconds: this.cpu_seconds() + this.waited_for_seconds() + others }
    }

    /// Seconds of processor time that other processes used since.
    pub fn foreign_seconds_since(self, own: &[Process]) -> f64 {
        let now = Self::now(own);
        let busy = (now.busy_ticks - self.busy_ticks) / TICKS_A_SECOND;
        (busy - (now.own_seconds - self.own_seconds)).max(0.0)
    }
}

/// A process, by its folder.
#[derive(Debug, Clone)]
pub struct Process(String);

impl Process {
    pub fn this() -> Self {
        Self("/proc/self".to_owned())
    }

    pub fn of(pid: i32) -> Self {
        Self(format!("/proc/{pid}"))
    }

    /// A line `name:  value …` of `status`, in its own unit.
    pub fn status(&self, name: &str) -> f64 {
        field(Path::new(&self.0), name).unwrap_or_else(|| panic!("{} says no {name}", self.0))
    }

    /// Processor time used since the start, user and system, in ticks of 10 ms.
    pub fn cpu_seconds(&self) -> f64 {
        self.stat_seconds(11)
    }

    /// The same of the children that it has waited for.
    pub fn waited_for_seconds(&self) -> f64 {
        self.stat_seconds(13)
    }

    /// The sum of two fields of `stat`, counted from 0 behind the name: utime, stime, cutime, cstime are 11 to 14.
    fn stat_seconds(&self, first: usize) -> f64 {
        let stat = fs::read_to_string(format!("{}/stat", self.0)).expect("the process lives");
        // The name in brackets may hold anything; what follows is numbers.
        let (_, after) = stat.rsplit_once(')').expect("a name in brackets");
        let ticks = after.split_whitespace().skip(first).take(2).filter_map(|tick| tick.parse::<f64>().ok());
        ticks.sum::<f64>() / TICKS_A_SECOND
    }

    /// How often its threads went to sleep of their own accord, by thread; each such time, something woke them again.
    pub fn sleeps(&self) -> Vec<(String, f64)> {
        let tasks = fs::read_dir(format!("{}/task", self.0)).expect("the process lives").flatten();
        let one = |task: fs::DirEntry| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_string_lossy().into_owned();
            Some((format!("{} {id}", name.trim()), field(&task.path(), "voluntary_ctxt_switches")?))
        };
        tasks.filter_map(one).collect()
    }

    /// Nanoseconds that its threads ran, by name; finer than `cpu_seconds`. Threads that ended are not counted.
    pub fn runs(&self) -> Vec<(String, f64)> {
        let tasks = fs::read_dir(format!("{}/task", self.0)).expect("the process lives").flatten();
        let one = |task: fs::DirEntry| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            Some((name.trim().to_owned(), text.split(' ').next()?.parse().ok()?))
        };
        tasks.filter_map(one).collect()
    }
}

/// Seconds that the calling thread ran.
pub fn thread_seconds() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts what a thread runs");
    text.split(' ').next().and_then(|first| first.parse::<f64>().ok()).expect("nanoseconds") / 1e9
}

fn field(folder: &Path, name: &str) -> Option<f64> {
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Waits, because the passage of time is what is measured; nothing is awaited.
pub fn pass(time: std::time::Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}
