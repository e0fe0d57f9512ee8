//! How short of memory the system was when the watch thread last looked: one number that everyone may read.

use std::sync::atomic::{AtomicU8, Ordering};

/// Told here to those who do not look at the platform themselves.
pub use crate::platform::pressure::Pressure;

/// The last level that was seen.
#[derive(Debug)]
pub struct Shortage(AtomicU8);

impl Shortage {
    pub(super) fn new() -> Self {
        Self(AtomicU8::new(Pressure::Normal as u8))
    }

    /// The level.
    #[must_use]
    pub fn now(&self) -> Pressure {
        match self.0.load(Ordering::Relaxed) {
            level if level == Pressure::Critical as u8 => Pressure::Critical,
            level if level == Pressure::Warning as u8 => Pressure::Warning,
            _ => Pressure::Normal,
        }
    }

    /// The level is this now; a change is logged.
    pub fn set(&self, pressure: Pressure) {
        let before = self.now();
        self.0.store(pressure as u8, Ordering::Relaxed);
        if pressure > before {
            tracing::warn!(?pressure, "the system is short of memory");
        } else if pressure < before {
            tracing::info!(?pressure, "the system is less short of memory");
        }
    }
}
