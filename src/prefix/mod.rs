//! The index of retained prompt states: which of them shares the longest beginning with a new prompt, and which go when
//! there are too many bytes of them. Generic over what is stored; it refuses to know what that is, but is told to which
//! beginnings of its tokens a state can be cut.
//!
//! Entries are sorted by their tokens, so the longest common beginning with any prompt is that of one of the prompt's two
//! neighbours in the order, and what lies further away shares no more: no tree of tokens is needed. An entry that another
//! one continues tells nothing that the other does not, if that can be cut to it, and is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Entries that had to go and are remembered, to tell why a prompt found nothing.
const DROPPED_MAX: usize = 64;
/// Tokens that are remembered of each.
const DROPPED_TOKENS_MAX: usize = 64;

/// Whose prompts an entry may serve, and its tokens.
type Key = (Arc<str>, Vec<u32>);
/// The longest beginning of at most so many tokens that a state can be cut to; 0 if there is none.
type Cut<S> = fn(&S, usize) -> usize;

/// States by the tokens that they were computed from, least recently used first to go.
#[derive(Debug)]
pub struct Index<S> {
    entries: BTreeMap<Key, Entry<S>>,
    bytes: u64,
    bytes_max: u64,
    /// Counts uses; orders entries by their last one.
    turn: u64,
    cut: Cut<S>,
    /// How those began that had to go, the latest last.
    dropped: VecDeque<Key>,
}

#[derive(Debug)]
struct Entry<S> {
    state: S,
    bytes: u64,
    used: u64,
}

impl<S> Index<S> {
    /// An empty index that holds at most so many bytes, with 0 nothing, of states that can be cut to any beginning.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self::with_cut(bytes_max, |_, tokens| tokens)
    }

    /// As `new`, of states that can be cut as told.
    #[must_use]
    pub fn with_cut(bytes_max: u64, cut: Cut<S>) -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, bytes_max, turn: 0, cut, dropped: VecDeque::new() }
    }

    /// Bytes of all states.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Retained states.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is retained.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The state of this scope that can be cut to the longest beginning of `tokens`, and the length of that; `None` when none
    /// can be cut to even the first token.
    pub fn longest(&mut self, scope: &Arc<str>, tokens: &[u32]) -> Option<(usize, &S)> {
        let (before, after) = self.around(scope, tokens);
        let best = self.best(before, tokens, None);
        let (length, key) = self.best(after, tokens, best)?;
        let key = key.clone();
        self.turn += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.turn;
        Some((length, &entry.state))
    }

    /// How many tokens the entry of this scope that shares most has in common with `tokens`, whether or not it can be cut to
    /// them; `None` when the scope has no entry.
    #[must_use]
    pub fn nearest(&self, scope: &Arc<str>, tokens: &[u32]) -> Option<usize> {
        let (mut before, mut after) = self.around(scope, tokens);
        [before.next(), after.next()].into_iter().flatten().map(|((_, other), _)| shared(other, tokens)).max()
    }

    /// As `nearest`, of the entries that had to go lately, as far as that is remembered.
    #[must_use]
    pub fn dropped(&self, scope: &Arc<str>, tokens: &[u32]) -> usize {
        let own = self.dropped.iter().filter(|(of, _)| of == scope);
        own.map(|(_, other)| shared(other, tokens)).max().unwrap_or(0)
    }

    /// The scope's entries before and after `tokens`, in the order of their distance: each shares no more than the one before.
    fn around(&self, scope: &Arc<str>, tokens: &[u32]) -> (impl Near<'_, S>, impl Near<'_, S>) {
        let query = (Arc::clone(scope), tokens.to_vec());
        let own = |of: &Arc<str>| {
            let of = Arc::clone(of);
            move |entry: &(&Key, &Entry<S>)| entry.0.0 == of
        };
        let before = self.entries.range(..=&query).rev().take_while(own(scope));
        let after = self.entries.range((Bound::Excluded(&query), Bound::Unbounded)).take_while(own(scope));
        (before, after)
    }

    /// The entry that can be cut to the longest beginning of `tokens`, if that is longer than `best`.
    fn best<'a>(
        &self,
        entries: impl Near<'a, S>,
        tokens: &[u32],
        mut best: Option<(usize, &'a Key)>,
    ) -> Option<(usize, &'a Key)>
    where
        S: 'a,
    {
        let length = |best: Option<(usize, &Key)>| best.map_or(0, |(length, _)| length);
        for (key, entry) in entries {
            let shared = shared(&key.1, tokens);
            if shared <= length(best) {
                break;
            }
            let usable = (self.cut)(&entry.state, shared);
            if usable > length(best) {
                best = Some((usable, key));
            }
        }
        best
    }

    /// Retains the state of `tokens`, unless an entry that continues them can be cut to them, or it is larger than everything
    /// may be. An entry that it continues and can be cut to goes, and then those that were not used for longest, until all
    /// fit.
    pub fn insert(&mut self, scope: &Arc<str>, tokens: Vec<u32>, state: S, bytes: u64) {
        let key = (Arc::clone(scope), tokens);
        let length = key.1.len();
        if bytes > self.bytes_max || length == 0 {
            return;
        }
        self.turn += 1;
        let (turn, cut) = (self.turn, self.cut);
        let next = self.entries.range_mut((Bound::Included(&key), Bound::Unbounded)).next();
        let continues = |of: &Arc<str>, next: &[u32], entry: &Entry<S>| {
            of == scope && next.starts_with(&key.1) && cut(&entry.state, length) == length
        };
        if let Some((_, continuing)) = next.filter(|((of, next), entry)| continues(of, next, entry)) {
            continuing.used = turn;
            return;
        }
        let before = self.entries.range(..=&key).next_back().map(|(before, _)| before);
        let continued =
            |(of, before): &&Key| of == scope && key.1.starts_with(before) && cut(&state, before.len()) == before.len();
        if let Some(continued) = before.filter(continued).cloned() {
            self.remove(&continued);
        }
        self.shrink(self.bytes_max - bytes);
        self.bytes += bytes;
        self.entries.insert(key, Entry { state, bytes, used: turn });
    }

    /// Drops what was not used for longest, until at most so many bytes are left.
    pub fn shrink(&mut self, bytes_max: u64) {
        while self.bytes > bytes_max {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let mut oldest = oldest.expect("bytes belong to entries");
            self.remove(&oldest);
            if self.dropped.len() == DROPPED_MAX {
                self.dropped.pop_front();
            }
            oldest.1.truncate(DROPPED_TOKENS_MAX);
            self.dropped.push_back(oldest);
        }
    }

    fn remove(&mut self, key: &Key) {
        let entry = self.entries.remove(key).expect("a removed entry was there");
        self.bytes -= entry.bytes;
    }
}

/// Entries in the order of their distance from a prompt.
trait Near<'a, S: 'a>: Iterator<Item = (&'a Key, &'a Entry<S>)> {}

impl<'a, S: 'a, I: Iterator<Item = (&'a Key, &'a Entry<S>)>> Near<'a, S> for I {}

/// How many tokens two sequences begin with alike.
#[must_use]
pub fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scope(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn the_longest_common_beginning_is_found_and_only_in_its_scope() {
        let (a, b) = (scope("a"), scope("b"));
        let mut index = Index::new(100);
        index.insert(&a, vec![1, 2, 3, 4], "first", 1);
        index.insert(&a, vec![1, 2, 9], "second", 1);
        assert_eq!(index.longest(&a, &[1, 2, 3, 7]), Some((3, &"first")));
        assert_eq!(index.longest(&a, &[1, 2, 9, 9, 9]), Some((3, &"second")));
        assert_eq!(index.longest(&a, &[2]), None);
        assert_eq!(index.longest(&b, &[1, 2, 3, 4]), None);
    }

    #[test]
    fn an_entry_that_another_continues_is_dropped() {
        let a = scope("a");
        let mut index = Index::new(100);
        index.insert(&a, vec![1, 2], "turn one", 10);
        index.insert(&a, vec![1, 2, 3], "turn two", 15);
        index.insert(&a, vec![1], "less than is known", 5);
        assert_eq!((index.len(), index.bytes()), (1, 15));
        assert_eq!(index.longest(&a, &[1, 2, 5]), Some((2, &"turn two")));
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_is_too_large_is_not_kept() {
        let a = scope("a");
        let mut index = Index::new(100);
        index.insert(&a, vec![1], 1, 40);
        index.insert(&a, vec![2], 2, 40);
        index.longest(&a, &[1]);
        index.insert(&a, vec![3], 3, 40);
        assert_eq!(index.longest(&a, &[2]), None);
        assert_eq!(index.longest(&a, &[1]), Some((1, &1)));
        index.insert(&a, vec![4], 4, 101);
        assert_eq!(index.longest(&a, &[4]), None);
        assert_eq!(index.bytes(), 80);
        index.shrink(0);
        assert!(index.is_empty() && index.bytes() == 0);
    }

    /// Whole, or at a multiple of three.
    fn in_threes(state: &[u32], tokens: usize) -> usize {
        if tokens >= state.len() { state.len() } else { tokens / 3 * 3 }
    }

    #[test]
    fn a_state_that_cannot_be_cut_to_an_earlier_one_does_not_replace_it() {
        let a = scope("a");
        let mut index: Index<Vec<u32>> = Index::with_cut(100, |state, tokens| in_threes(state, tokens));
        let mut insert = |tokens: &[u32]| index.insert(&a, tokens.to_vec(), tokens.to_vec(), 1);
        insert(&[1, 2, 3, 4]);
        insert(&[1, 2, 3, 4, 5, 6, 7]);
        insert(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(index.len(), 2, "only what the longest cannot be cut to is kept beside it");
        assert_eq!(index.longest(&a, &[1, 2, 3, 4, 9]), Some((4, &vec![1, 2, 3, 4])));
        assert_eq!(index.longest(&a, &[1, 2, 3, 4, 5, 6, 9]).map(|(length, _)| length), Some(6));
        assert_eq!(index.longest(&a, &[1, 2, 9]), None, "what is shared cannot be used");
        assert_eq!(index.nearest(&a, &[1, 2, 9]), Some(2));
        assert_eq!(index.nearest(&scope("b"), &[1, 2, 9]), None);
    }

    #[test]
    fn how_those_began_that_had_to_go_is_remembered_for_their_scope_and_not_for_ever() {
        let (a, b) = (scope("a"), scope("b"));
        let mut index = Index::new(10);
        index.insert(&a, vec![7; 100], (), 10);
        assert_eq!(index.dropped(&a, &[7; 100]), 0);
        index.insert(&b, vec![8], (), 10);
        assert_eq!((index.dropped(&a, &[7; 100]), index.dropped(&b, &[7; 100])), (DROPPED_TOKENS_MAX, 0));
        (0..=DROPPED_MAX as u32).for_each(|token| index.insert(&b, vec![token], (), 10));
        assert_eq!((index.dropped(&a, &[7; 100]), index.dropped.len()), (0, DROPPED_MAX));
    }

    /// Short sequences over few tokens, so that beginnings collide.
    fn sequences() -> impl Strategy<Value = Vec<(bool, u8, Vec<u32>, u64)>> {
        let one = (any::<bool>(), 0_u8..2, proptest::collection::vec(0_u32..3, 1..7), 1_u64..30);
        proptest::collection::vec(one, 1..60)
    }

    proptest! {
        #[test]
        fn what_can_be_cut_only_here_and_there_is_found_as_by_a_search_through_all_entries(steps in sequences()) {
            let scopes = [scope("a"), scope("b")];
            let mut index: Index<Vec<u32>> = Index::with_cut(200, |state, tokens| in_threes(state, tokens));
            for (insert, of, tokens, bytes) in steps {
                let scope = &scopes[usize::from(of)];
                let all = |index: &Index<Vec<u32>>, tokens: &[u32]| {
                    let own = index.entries.keys().filter(|(other, _)| other == scope);
                    own.map(|(_, entry)| in_threes(entry, shared(entry, tokens))).max().filter(|best| *best > 0)
                };
                if insert && bytes <= 200 {
                    index.insert(scope, tokens.clone(), tokens.clone(), bytes);
                    prop_assert_eq!(all(&index, &tokens), Some(tokens.len()), "what was inserted can be used");
                }
                let best = all(&index, &tokens);
                let found = index.longest(scope, &tokens).map(|(length, state)| (length, state.clone()));
                prop_assert_eq!(found.as_ref().map(|(length, _)| *length), best);
                if let Some((length, state)) = found {
                    prop_assert!(length <= shared(&state, &tokens));
                }
                prop_assert_eq!(index.bytes(), index.entries.values().map(|entry| entry.bytes).sum::<u64>());
            }
        }

        #[test]
        fn a_look_up_finds_what_a_search_through_all_entries_finds(steps in sequences()) {
            let scopes = [scope("a"), scope("b")];
            let mut index: Index<Vec<u32>> = Index::new(200);
            for (insert, of, tokens, bytes) in steps {
                let scope = &scopes[usize::from(of)];
                if insert {
                    index.insert(scope, tokens.clone(), tokens, bytes);
                } else {
                    let all = index.entries.keys().filter(|(other, _)| other == scope);
                    let best = all.map(|(_, entry)| shared(entry, &tokens)).max().filter(|best| *best > 0);
                    let found = index.longest(scope, &tokens).map(|(length, state)| (length, state.clone()));
                    prop_assert_eq!(found.as_ref().map(|(length, _)| *length), best);
                    if let Some((length, state)) = found {
                        prop_assert_eq!(shared(&state, &tokens), length);
                    }
                }
                prop_assert!(index.bytes() <= 200);
                prop_assert_eq!(index.bytes(), index.entries.values().map(|entry| entry.bytes).sum::<u64>());
                for (of, tokens) in index.entries.keys() {
                    let continued = |(other, longer): &&Key| other == of && longer.len() > tokens.len() && longer.starts_with(tokens);
                    prop_assert!(!index.entries.keys().any(|key| continued(&key)));
                }
            }
        }
    }
}
