//! Prompt lookup (Saxena, Prompt Lookup Decoding, 2023): a row that says something again is likely to go on as it went on
//! before. This file owns where a row's last tokens stood earlier, in its prompt or in its answer; it refuses to know
//! whether a guess pays and who checks it.
//!
//! Work is bounded, whatever the text: a new token costs one entry, a look at most [`PLACES_MAX`] comparisons of at most
//! [`MATCH_TOKENS_MAX`] tokens.

use std::collections::HashMap;

/// Tokens that must agree: two of a text agree with something by chance too often.
pub(super) const MATCH_TOKENS_MIN: usize = 3;
/// Tokens that are compared at most: longer matches are no better.
pub(super) const MATCH_TOKENS_MAX: usize = 32;
/// Earlier places that are looked at, the latest ones.
const PLACES_MAX: usize = 32;
/// The tokens by which places are found.
const KEY_TOKENS: usize = 2;

/// Where each two tokens of a row stood.
#[derive(Debug, Default)]
pub(super) struct Lookup {
    /// The latest place behind each two tokens.
    latest: HashMap<[u32; KEY_TOKENS], usize>,
    /// For every place, the one before it that is behind the same two tokens; 0, which is behind none, ends the chain.
    earlier: Vec<usize>,
}

/// An earlier place behind the tokens that a row ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Match {
    /// Index of the token that followed them there.
    pub(super) place: usize,
    /// How many of them agree, as far as they were compared.
    pub(super) tokens: usize,
}

impl Lookup {
    /// Takes note of a row's tokens; those of an earlier call are known.
    pub(super) fn learn(&mut self, tokens: &[u32]) {
        for place in self.earlier.len()..=tokens.len() {
            let key = place.checked_sub(KEY_TOKENS).map(|start| [tokens[start], tokens[start + 1]]);
            self.earlier.push(key.and_then(|key| self.latest.insert(key, place)).unwrap_or(0));
        }
    }

    /// Whether one more token can lead to a match. Without an earlier place behind the last two tokens there is none
    /// behind these and another one.
    pub(super) fn may_match(&self) -> bool {
        self.earlier.last().is_some_and(|place| *place != 0)
    }

    /// The place with the longest match, of equal ones the latest. `tokens` are those that were learned.
    pub(super) fn find(&self, tokens: &[u32]) -> Option<Match> {
        assert_eq!(self.earlier.len(), tokens.len() + 1, "what is looked up was learned");
        let before = |place: &usize| Some(self.earlier[*place]).filter(|earlier| *earlier != 0);
        let places = std::iter::successors(before(&tokens.len()), before).take(PLACES_MAX);
        let matches = places.map(|place| Match { place, tokens: agreeing(&tokens[..place], tokens) });
        let longest = matches.reduce(|best, found| if found.tokens > best.tokens { found } else { best })?;
        (longest.tokens >= MATCH_TOKENS_MIN).then_some(longest)
    }
}

/// What followed at `place`, so many tokens. Beyond the last token it goes on with itself: what repeats, repeats.
pub(super) fn following(tokens: &[u32], place: usize, count: usize) -> Vec<u32> {
    tokens[place..].iter().copied().cycle().take(count).collect()
}

/// How many tokens both end with, as far as it matters.
fn agreeing(a: &[u32], b: &[u32]) -> usize {
    let pairs = a.iter().rev().zip(b.iter().rev());
    pairs.take(MATCH_TOKENS_MAX).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By looking everywhere.
    fn oracle(tokens: &[u32]) -> Option<Match> {
        let ends_alike =
            |place: &usize| *place >= KEY_TOKENS && tokens[..*place].ends_with(&tokens[tokens.len() - 2..]);
        let mut best: Option<Match> = None;
        for place in (1..tokens.len()).rev().filter(ends_alike).take(PLACES_MAX) {
            let agree = |length: &usize| tokens[..place].ends_with(&tokens[tokens.len() - length..]);
            let longest = (1..=place.min(MATCH_TOKENS_MAX)).rev().find(agree).unwrap_or(0);
            if longest >= MATCH_TOKENS_MIN && best.is_none_or(|best| longest > best.tokens) {
                best = Some(Match { place, tokens: longest });
            }
        }
        best
    }

    proptest! {
        #[test]
        fn a_look_finds_what_looking_everywhere_finds(
            tokens in prop_oneof![
                proptest::collection::vec(0_u32..3, 2..200),
                proptest::collection::vec(0_u32..12, 2..400),
                (proptest::collection::vec(0_u32..50, 1..60), 2_usize..6).prop_map(|(part, times)| part.repeat(times)),
            ],
            pieces in proptest::collection::vec(1_usize..50, 0..20),
        ) {
            let (mut lookup, mut known) = (Lookup::default(), 0);
            for piece in pieces {
                known = tokens.len().min(known + piece);
                lookup.learn(&tokens[..known]);
                prop_assert!(known < KEY_TOKENS || lookup.find(&tokens[..known]) == oracle(&tokens[..known]));
            }
            for known in known + 1..=tokens.len() {
                let foreseen = lookup.may_match();
                lookup.learn(&tokens[..known]);
                let found = if known < KEY_TOKENS { None } else { oracle(&tokens[..known]) };
                prop_assert_eq!(lookup.find(&tokens[..known]), found);
                prop_assert!(found.is_none() || foreseen, "a match at {} of {:?} was not foreseen", known, tokens);
            }
        }
    }

    #[test]
    fn what_repeats_goes_on_repeating() {
        let tokens = [9, 1, 2, 3, 1, 2, 3];
        let mut lookup = Lookup::default();
        lookup.learn(&tokens);
        assert_eq!(lookup.find(&tokens), Some(Match { place: 4, tokens: 3 }));
        assert_eq!(following(&tokens, 4, 7), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(following(&tokens, 1, 4), [1, 2, 3, 1]);
    }

    #[test]
    fn a_text_without_repetition_is_never_guessed_at() {
        let tokens: Vec<u32> = (0..500).collect();
        let mut lookup = Lookup::default();
        lookup.learn(&tokens);
        assert!(!lookup.may_match());
        assert_eq!(lookup.find(&tokens), None);
    }
}
