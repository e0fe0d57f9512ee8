//! How fast jobs leave the engine, as one smoothed number, so that `Retry-After` is a measurement and not a guess.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The bounds of a `Retry-After` that a client can act on.
const RETRY_AFTER_SECONDS_MAX: u64 = 60;
/// Assumed until the first job has ended.
const JOB_MS_ASSUMED: u64 = 2_000;

/// An exponentially weighted mean of the milliseconds of engine time that one job takes.
#[derive(Debug)]
pub(crate) struct Pace(AtomicU64);

impl Pace {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(JOB_MS_ASSUMED))
    }

    /// A job was open for this long beside at most `rows_max - 1` others. Written by the inference thread only.
    pub(crate) fn job_took(&self, time: Duration, rows_max: u32) {
        let sample = u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / u64::from(rows_max.max(1));
        let mean = self.0.load(Ordering::Relaxed);
        self.0.store((mean.saturating_mul(7).saturating_add(sample)) / 8, Ordering::Relaxed);
    }

    /// Seconds until half of a queue of `waiting` jobs has been admitted: at least 1, at most 60.
    pub(crate) fn retry_after_seconds(&self, waiting: u32) -> u32 {
        let milliseconds = self.0.load(Ordering::Relaxed).saturating_mul(u64::from(waiting.max(1))) / 2;
        let seconds = milliseconds.div_ceil(1_000).clamp(1, RETRY_AFTER_SECONDS_MAX);
        u32::try_from(seconds).expect("clamped to 60 above")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_between_one_second_and_sixty() {
        let pace = Pace::new();
        assert_eq!(pace.retry_after_seconds(0), 1);
        for _ in 0..100 {
            pace.job_took(Duration::from_secs(3_600), 1);
        }
        assert_eq!(pace.retry_after_seconds(64), 60);
    }
}
