//! Prompts that found nothing computed that they could begin with: how many for which reason, and where the last of them
//! left what was known. The inference thread counts and anyone reads, by atomics: neither ever waits for the other. It
//! holds numbers only, and nothing of what a prompt says or whose it was.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Why nothing was used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissReason {
    /// Nothing computed for the same client is known.
    Cold,
    /// What is known goes on differently too early for it to spare anything.
    Diverged,
    /// What began alike had to go, for want of room.
    Evicted,
    /// What begins alike cannot be cut to what is shared: it has left that behind.
    Uncuttable,
}

impl MissReason {
    const ALL: [Self; 4] = [Self::Cold, Self::Diverged, Self::Evicted, Self::Uncuttable];

    /// The word in logs, in `/health` and in the label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Diverged => "diverged",
            Self::Evicted => "evicted",
            Self::Uncuttable => "uncuttable",
        }
    }
}

impl EncodeLabelValue for MissReason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        fmt::Write::write_str(encoder, self.as_str())
    }
}

/// Labels of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MissLabels {
    /// Why.
    reason: MissReason,
}

/// The counters; a clone counts into the same ones.
#[derive(Debug, Clone)]
pub struct Misses {
    /// As the registry has them.
    pub(super) family: Family<MissLabels, Counter>,
    /// Those of the family, in the order of [`MissReason::ALL`]: the family itself is behind a lock.
    counters: [Counter; MissReason::ALL.len()],
    /// The reason's place plus one, and the position in the lower half; 0 before the first miss.
    last: Arc<AtomicU64>,
}

impl Default for Misses {
    fn default() -> Self {
        let family = Family::<MissLabels, Counter>::default();
        let counters = MissReason::ALL.map(|reason| family.get_or_create(&MissLabels { reason }).clone());
        Self { family, counters, last: Arc::default() }
    }
}

impl Misses {
    /// One more, of a prompt whose token at `position` is the first that nothing known has in its place.
    pub fn count(&self, reason: MissReason, position: u32) {
        let place = reason as usize;
        self.counters[place].inc();
        self.last.store((place as u64 + 1) << 32 | u64::from(position), Ordering::Relaxed);
    }

    /// How many there were, by reason.
    pub fn counts(&self) -> impl Iterator<Item = (MissReason, u64)> {
        MissReason::ALL.into_iter().zip(self.counters.iter().map(Counter::get))
    }

    /// The last one's reason and position.
    #[must_use]
    pub fn last(&self) -> Option<(MissReason, u32)> {
        let last = self.last.load(Ordering::Relaxed);
        let place = usize::try_from(last >> 32).ok()?.checked_sub(1)?;
        Some((MissReason::ALL[place], last as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_counts_into_the_same_counters_and_the_last_is_told_whole() {
        let misses = Misses::default();
        assert_eq!(misses.last(), None);
        for (reason, position) in MissReason::ALL.into_iter().zip([0, 7, u32::MAX, 12]) {
            misses.clone().count(reason, position);
            assert_eq!(misses.last(), Some((reason, position)));
        }
        misses.count(MissReason::Diverged, 3);
        let counts: Vec<(MissReason, u64)> = misses.counts().collect();
        assert_eq!(counts, MissReason::ALL.into_iter().zip([1, 2, 1, 1]).collect::<Vec<_>>());
    }
}
