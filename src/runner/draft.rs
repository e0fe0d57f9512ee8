//! Guesses of what rows say next, for a pass that checks them: a row's own earlier tokens are looked up, and as many of
//! what followed there are drafted as are likely to pay. It owns when a draft is made and of how many tokens; `batch` makes
//! the pass and `row` takes what was right.

mod gate;
mod lookup;
#[cfg(test)]
mod tests;

use crate::telemetry::metrics::DraftCounters;

pub(super) use gate::Costs;
use gate::{Offer, Record};
use lookup::{Lookup, MATCH_TOKENS_MAX};

/// Whether and how the rows of a runner guess.
#[derive(Debug)]
pub(super) struct Drafting {
    /// Of one row in one step; at least 1.
    tokens_max: usize,
    costs: Costs,
    counters: DraftCounters,
}

/// What one row knows of its own text.
#[derive(Debug, Default)]
pub(super) struct Drafter {
    lookup: Lookup,
    record: Record,
}

/// What a row could draft: what followed its last tokens at an earlier place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guess {
    place: usize,
    offer: Offer,
}

impl Drafting {
    pub(super) fn new(tokens_max: usize, costs: Costs, counters: DraftCounters) -> Self {
        assert!(tokens_max > 0, "without a token there is nothing to draft");
        Self { tokens_max, costs, counters }
    }

    /// How many tokens each row of a step drafts; none where there is no guess, or none that pays.
    pub(super) fn lengths(&self, guesses: &[Option<Guess>]) -> Vec<usize> {
        let offer = |guess: &Guess| Offer { tokens_max: guess.offer.tokens_max.min(self.tokens_max), ..guess.offer };
        gate::lengths(&guesses.iter().map(|guess| guess.as_ref().map(offer)).collect::<Vec<_>>(), &self.costs)
    }

    /// Whether a row's next token may lead to a draft, if it repeats all that came before it.
    pub(super) fn may_pay(&self, drafter: &Drafter) -> bool {
        let offer = Offer { likely: drafter.record.likely(MATCH_TOKENS_MAX), tokens_max: self.tokens_max };
        drafter.lookup.may_match() && gate::lengths(&[Some(offer)], &self.costs) != [0]
    }

    /// Of so many drafted tokens so many were right.
    pub(super) fn count(&self, drafted: usize, right: usize) {
        self.counters.drafted.inc_by(drafted as u64);
        self.counters.accepted.inc_by(right as u64);
    }
}

impl Guess {
    /// So many tokens of it, for the row with these.
    pub(super) fn draft(&self, tokens: &[u32], count: usize) -> Vec<u32> {
        lookup::following(tokens, self.place, count)
    }
}

impl Drafter {
    /// Takes note of a row's tokens; those of an earlier call are known.
    pub(super) fn learn(&mut self, tokens: &[u32]) {
        self.lookup.learn(tokens);
    }

    /// What the row could draft, so many tokens at most.
    pub(super) fn guess(&mut self, tokens: &[u32], tokens_max: usize) -> Option<Guess> {
        self.lookup.learn(tokens);
        let found = self.lookup.find(tokens)?;
        Some(Guess { place: found.place, offer: Offer { likely: self.record.likely(found.tokens), tokens_max } })
    }

    /// A step has given the row so many tokens, the first `right` of which were drafted, with `drafted` in all.
    pub(super) fn note(&mut self, drafted: usize, right: usize, tokens: usize) {
        self.record.fade(tokens);
        self.record.note(drafted, right);
    }
}
