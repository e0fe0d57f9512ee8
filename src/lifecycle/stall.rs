//! When silence is a stall (P3), as a function of the pulse and the limits. It owns the rule that only pending work can
//! stall, and that a process which was itself stopped or asleep is forgiven; it refuses to know clocks and phases.

use std::time::Duration;

use crate::lifecycle::heartbeat::Pulse;

/// The clock of the watch thread may be late by this much before it says that the whole process was stopped.
pub(crate) const LATE_TICK: Duration = Duration::from_secs(2);

/// How long nothing may move while work is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StallLimits {
    /// After this the phase is degraded.
    pub degraded: Duration,
    /// After this the process is not ready.
    pub unready: Duration,
    /// After this the process ends.
    pub dead: Duration,
}

/// What the pulse says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Idle, or moving.
    Moving,
    /// Past the first limit.
    Degraded,
    /// Past the second.
    Unready,
    /// Past the third: the process must end.
    Dead,
}

/// Judges one look at the heartbeat.
#[must_use]
pub fn judge(pulse: &Pulse, limits: StallLimits) -> Verdict {
    if pulse.running + pulse.queued == 0 {
        return Verdict::Moving;
    }
    let silent = Duration::from_millis(pulse.last_progress_age_ms);
    if silent >= limits.dead {
        Verdict::Dead
    } else if silent >= limits.unready {
        Verdict::Unready
    } else if silent >= limits.degraded {
        Verdict::Degraded
    } else {
        Verdict::Moving
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::heartbeat::Unit;

    const LIMITS: StallLimits = StallLimits {
        degraded: Duration::from_secs(15),
        unready: Duration::from_secs(30),
        dead: Duration::from_secs(60),
    };

    fn pulse(running: u32, queued: u32, age_seconds: u64) -> Pulse {
        Pulse {
            last_progress_age_ms: age_seconds * 1_000,
            unit: Unit::DecodeStep,
            running,
            queued,
            queue_oldest_age_ms: 0,
            steps: 1,
            last_token_age_ms: 0,
            runtime_tick_age_ms: 0,
        }
    }

    #[test]
    fn p3_each_limit_has_its_verdict_and_only_while_work_is_pending() {
        let expected = [
            (14, Verdict::Moving),
            (15, Verdict::Degraded),
            (29, Verdict::Degraded),
            (30, Verdict::Unready),
            (59, Verdict::Unready),
            (60, Verdict::Dead),
        ];
        for (age, verdict) in expected {
            assert_eq!(judge(&pulse(1, 0, age), LIMITS), verdict, "running, silent for {age} s");
            assert_eq!(judge(&pulse(0, 1, age), LIMITS), verdict, "queued, silent for {age} s");
            assert_eq!(judge(&pulse(0, 0, age), LIMITS), Verdict::Moving, "an idle engine is never stalled");
        }
    }
}
