//! The watch thread: once a tick it reads the heartbeat and acts on the verdict. It owns the way from silence to an exit
//! (P3, P5), the lateness of the async runtime (P8), the forgiveness after sleep or SIGSTOP (P10), and the look at the system's memory
//! (M2); it waits for nobody.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lifecycle::Lifecycle;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::signal::dump_threads;
use crate::lifecycle::stall::{self, LATE_TICK, StallLimits, Verdict};
use crate::platform::{clock, pressure};

/// Lateness of the runtime's ticker that is logged with a thread dump.
const RUNTIME_STUCK_MS: u64 = 1_000;

/// What the watch thread needs to know.
#[derive(Debug, Clone, Copy)]
pub struct WatchSettings {
    /// Between two looks.
    pub tick: Duration,
    /// How often the async runtime's ticker runs.
    pub runtime_tick: Duration,
    /// When silence is a stall.
    pub stall: StallLimits,
}

/// Starts the thread; it runs until the process ends.
///
/// # Errors
/// The system gives no thread.
pub fn start(settings: WatchSettings, lifecycle: Arc<Lifecycle>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("watch".to_owned()).spawn(move || {
        let mut watch = Watch { settings, lifecycle, runtime_was_stuck: false };
        let mut clocks = Clocks::now();
        loop {
            thread::park_timeout(settings.tick);
            let next = Clocks::now();
            watch.look(clocks.paused(next, settings.tick));
            clocks = next;
        }
    })
}

/// Both clocks at one look.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    awake_ms: u64,
    wall_ms: u64,
}

impl Clocks {
    fn now() -> Self {
        Self { awake_ms: clock::awake_ms(), wall_ms: clock::wall_ms() }
    }

    /// Whether the process or the machine stood still since the last look: our own tick is late, or the clock that
    /// counts sleep ran ahead of the one that does not.
    fn paused(self, next: Self, tick: Duration) -> bool {
        let late_ms = u64::try_from((tick + LATE_TICK).as_millis()).unwrap_or(u64::MAX);
        let awake = next.awake_ms.saturating_sub(self.awake_ms);
        let wall = next.wall_ms.saturating_sub(self.wall_ms);
        awake > late_ms || wall > awake + u64::try_from(LATE_TICK.as_millis()).unwrap_or(u64::MAX)
    }
}

struct Watch {
    settings: WatchSettings,
    lifecycle: Arc<Lifecycle>,
    /// The last look already dumped the threads for a stuck runtime.
    runtime_was_stuck: bool,
}

impl Watch {
    fn look(&mut self, paused: bool) {
        if paused {
            tracing::warn!("the process was paused or the machine slept; stall clocks restart");
            self.lifecycle.forgive_pause();
            return;
        }
        self.look_at_engine();
        self.look_at_runtime();
        self.lifecycle.shortage.set(pressure::now());
    }

    fn look_at_engine(&self) {
        let pulse = self.lifecycle.heartbeat.pulse();
        let phase = &self.lifecycle.phase;
        let (pending, idle) = (stall::judge(&pulse, self.settings.stall), self.lifecycle.self_probe.verdict());
        match pending.max(idle) {
            Verdict::Moving => {
                // Only the watch thread set these two, so only it takes them back; a drain in between wins.
                if phase.advance_from(Phase::Degraded, Phase::Ready) || phase.advance_from(Phase::Stalled, Phase::Ready)
                {
                    tracing::info!("the engine makes progress again");
                }
            }
            Verdict::Degraded => {
                if phase.advance_from(Phase::Ready, Phase::Degraded) {
                    let misses = self.lifecycle.self_probe.misses();
                    tracing::warn!(silent_ms = pulse.last_progress_age_ms, misses, "no progress while work is pending");
                }
            }
            Verdict::Unready => {
                let _ = phase.advance_from(Phase::Ready, Phase::Degraded);
                if phase.advance_from(Phase::Degraded, Phase::Stalled) {
                    tracing::error!(silent_ms = pulse.last_progress_age_ms, "stalled; no longer ready");
                }
            }
            Verdict::Dead if phase.now() != Phase::Dead => {
                dump_threads("stall", &self.lifecycle);
                let silent = Duration::from_millis(pulse.last_progress_age_ms).as_secs_f64();
                let misses = if idle == Verdict::Dead { ", and no answer to a self-probe while idle" } else { "" };
                self.lifecycle.die(&format!("no progress for {silent:.1} s after {}{misses}", pulse.unit.as_str()));
            }
            Verdict::Dead => {}
        }
    }

    /// P8: the runtime's ticker is late when tasks block its workers. The ticker counts what it survives; this look also
    /// sees what it does not.
    fn look_at_runtime(&mut self) {
        let tick_ms = u64::try_from(self.settings.runtime_tick.as_millis()).unwrap_or(u64::MAX);
        let late_ms = self.lifecycle.heartbeat.pulse().runtime_tick_age_ms.saturating_sub(tick_ms);
        let stuck = late_ms > RUNTIME_STUCK_MS;
        if stuck && !self.runtime_was_stuck {
            tracing::error!(late_ms, "the async runtime does not run its timers");
            dump_threads("async runtime stuck", &self.lifecycle);
        }
        self.runtime_was_stuck = stuck;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    #[test]
    fn p10_a_late_tick_or_a_slept_machine_is_a_pause_and_a_busy_machine_is_not() {
        let start = Clocks { awake_ms: 5_000, wall_ms: 9_000 };
        let after = |awake_ms: u64, wall_ms: u64| Clocks { awake_ms: 5_000 + awake_ms, wall_ms: 9_000 + wall_ms };
        assert!(!start.paused(after(1_000, 1_000), TICK));
        assert!(!start.paused(after(2_500, 2_500), TICK), "late, as on a busy machine");
        assert!(start.paused(after(70_000, 70_000), TICK), "SIGSTOP for 70 s");
        assert!(start.paused(after(1_000, 8 * 3_600_000), TICK), "asleep for 8 h");
    }
}
