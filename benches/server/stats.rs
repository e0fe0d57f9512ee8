//! From samples to figures, and whether the machine was quiet enough for them: order statistics, a bootstrap interval,
//! the guard against foreign load. It knows nothing of servers.

use std::hint::black_box;
use std::time::Instant;

use crate::system;

/// Resamples of a bootstrap interval.
const RESAMPLES: usize = 10_000;
/// Multiplications of the calibration loop on each core; some 80 ms.
const CALIBRATION_STEPS: u64 = 60_000_000;
/// A block counts when the loop beside it was at most this much slower than the fastest of the run. A shared machine's
/// clock moves by a tenth from minute to minute; within a block, A-B-B-A takes that out.
const SLOWDOWN_MAX: f64 = 0.2;
/// And when all other processes together used at most this share of one core meanwhile.
const FOREIGN_CORES_MAX: f64 = 0.05;

/// The value below which this share of the samples lies; the samples are sorted by it.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    assert!(!samples.is_empty(), "a percentile needs samples");
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * share).round() as usize]
}

/// The middle; the samples are sorted by it.
pub fn median(samples: &mut [f64]) -> f64 {
    percentile(samples, 0.5)
}

/// Where the median lies with 95 % confidence, by resampling. Seeded, so that equal samples give equal intervals.
pub fn interval(samples: &[f64]) -> (f64, f64) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        samples[(state % samples.len() as u64) as usize]
    };
    let mut medians: Vec<f64> =
        (0..RESAMPLES).map(|_| median(&mut (0..samples.len()).map(|_| draw()).collect::<Vec<_>>())).collect();
    (percentile(&mut medians, 0.025), percentile(&mut medians, 0.975))
}

/// What the machine was like around one block.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Seconds of the calibration loop, the slower of before and after.
    pub calibration: f64,
    /// Cores that other processes used meanwhile.
    pub foreign_cores: f64,
}

impl Conditions {
    /// Runs a block between two calibrations.
    pub fn around<T>(block: impl FnOnce() -> T) -> (T, Self) {
        Self::around_with(&[], block)
    }

    /// The same when these processes, which live throughout, belong to the measurement too.
    pub fn around_with<T>(own: &[system::Process], block: impl FnOnce() -> T) -> (T, Self) {
        let before = calibrate();
        let (begun, load) = (Instant::now(), system::Load::now(own));
        let result = block();
        let foreign_cores = load.foreign_seconds_since(own) / begun.elapsed().as_secs_f64();
        (result, Self { calibration: before.max(calibrate()), foreign_cores })
    }

    /// Whether the loop was slower than a quiet machine's, of which `fastest` is the best guess.
    pub fn slowed(self, fastest: f64) -> bool {
        self.calibration > fastest * (1.0 + SLOWDOWN_MAX)
    }

    /// Whether others worked.
    pub fn disturbed(self) -> bool {
        self.foreign_cores > FOREIGN_CORES_MAX
    }
}

/// Seconds that fixed work takes on every core at once: the slowest core counts, as it does for a model.
pub fn calibrate() -> f64 {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for core in 0..system::cores() as u64 {
            scope.spawn(move || {
                let mut value = core + 1;
                for step in 0..CALIBRATION_STEPS {
                    value = black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step));
                }
                black_box(value)
            });
        }
    });
    begun.elapsed().as_secs_f64()
}
