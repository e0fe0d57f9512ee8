//! How fast the last answer was decoded, for a person who looks at the server: an average over the whole run says nothing
//! of now. It refuses to know rows; histograms have the distribution.

use std::time::Duration;

use parking_lot::Mutex;

/// Tokens a second of the answer that ended last.
#[derive(Debug, Default)]
pub struct Speed {
    last: Mutex<Option<f64>>,
}

impl Speed {
    /// An answer ended that had so many tokens behind its first, in this time. One too short to tell is not noted.
    pub fn note(&self, tokens: u32, time: Duration) {
        if tokens > 0 && !time.is_zero() {
            *self.last.lock() = Some(f64::from(tokens) / time.as_secs_f64());
        }
    }

    /// Of the last one; `None` before the first.
    #[must_use]
    pub fn last(&self) -> Option<f64> {
        *self.last.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_that_was_long_enough_counts() {
        let speed = Speed::default();
        speed.note(0, Duration::from_secs(1));
        speed.note(1, Duration::ZERO);
        assert_eq!(speed.last(), None);
        speed.note(10, Duration::from_secs(2));
        speed.note(0, Duration::from_secs(1));
        assert_eq!(speed.last(), Some(5.0));
    }
}
