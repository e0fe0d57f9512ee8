//! What was computed before and a prompt can begin with: the states of open rows and of closed ones, of the same bucket. It
//! owns which of them spares the prompt most, and why none does; it refuses to know what a state is, beyond to which
//! beginnings it can be cut.

use std::sync::Arc;

use crate::cache::{self, State};
use crate::prefix::{Index, shared};
use crate::telemetry::misses::{MissReason, Misses};

/// Tokens that an earlier prompt must share with a new one to spare it anything: fewer are evaluated as fast as copied.
pub(super) const PREFIX_TOKENS_MIN: usize = 16;
/// Tokens of a prompt that are evaluated however much of it is known: one-token suffixes may take another attention kernel on
/// the GPU (invariant 8).
const PROMPT_EVALUATED_MIN: usize = 2;

/// What is known. `S` is what a layer remembers.
#[derive(Debug)]
pub(super) struct Known<S> {
    /// What closed rows left.
    pub(super) kept: Index<Vec<S>>,
    /// Where those are counted that find nothing.
    pub(super) misses: Misses,
}

impl<S: State> Known<S> {
    /// Nothing; later at most so many bytes of what closed rows left.
    pub(super) fn new(bytes_max: u64, misses: Misses) -> Self {
        Self { kept: Index::with_cut(bytes_max, |layers, tokens| cache::cut(layers, tokens)), misses }
    }

    /// Of what is open, as tokens and the states that hold them, and of what is kept for the scope: the states that can be cut
    /// to the longest beginning of the prompt, and the length of that.
    pub(super) fn longest<'a>(
        &'a mut self,
        scope: &Arc<str>,
        prompt: &[u32],
        open: impl Iterator<Item = (&'a [u32], &'a [S])>,
    ) -> Option<(usize, &'a [S])> {
        let usable = &prompt[..prompt.len().saturating_sub(PROMPT_EVALUATED_MIN)];
        if usable.len() < PREFIX_TOKENS_MIN {
            return None;
        }
        let open: Vec<_> = open.map(|(tokens, states)| (shared(tokens, usable), states)).collect();
        let nearest = self.kept.nearest(scope, usable);
        let dropped = self.kept.dropped(scope, usable);
        let kept = self.kept.longest(scope, usable).map(|(tokens, states)| (tokens, states.as_slice()));
        let cut = open.iter().map(|(tokens, states)| (cache::cut(states, *tokens), *states));
        let best = cut.chain(kept).max_by_key(|(tokens, _)| *tokens).filter(|(tokens, _)| *tokens >= PREFIX_TOKENS_MIN);
        if best.is_none() {
            let position = open.iter().map(|(tokens, _)| *tokens).chain(nearest).max();
            let reason = match position {
                Some(position) if position >= PREFIX_TOKENS_MIN => MissReason::Uncuttable,
                _ if dropped >= PREFIX_TOKENS_MIN => MissReason::Evicted,
                Some(_) => MissReason::Diverged,
                None => MissReason::Cold,
            };
            let position = u32::try_from(position.unwrap_or(0)).expect("a prompt fits the context, which is a u32");
            tracing::debug!(reason = reason.as_str(), position, "nothing computed can be used for this prompt");
            self.misses.count(reason, position);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{self, Array, from_f32, to_f32_vec};

    /// What a recurrent layer remembers: one array, whatever it has seen. It cannot go back, but to its snapshot.
    #[derive(Debug, Clone)]
    struct Recurrent {
        state: Array,
        tokens: usize,
        snapshot: Option<(Array, usize)>,
    }

    impl Recurrent {
        fn new() -> Self {
            Self { state: from_f32(&[0.0; 4], &[4]), tokens: 0, snapshot: None }
        }

        /// Each token fades what was before it.
        fn see(&mut self, tokens: &[u32]) {
            for token in tokens {
                let new = from_f32(&[1.0, 2.0, 3.0, 5.0].map(|factor| factor * *token as f32), &[4]);
                self.state = self.state.multiply(from_f32(&[0.5], &[1])).and_then(|old| old.add(new)).expect("fits");
            }
            self.tokens += tokens.len();
        }

        fn values(&self) -> Vec<f32> {
            to_f32_vec(&self.state).expect("cpu")
        }
    }

    impl State for Recurrent {
        fn cut(&self, tokens: usize) -> usize {
            match &self.snapshot {
                _ if tokens >= self.tokens => self.tokens,
                Some((_, at)) if tokens >= *at => *at,
                Some(_) | None => 0,
            }
        }

        fn fork(&self, tokens: usize, _: usize) -> mlx::Result<Self> {
            let whole = (self.state.clone(), self.tokens);
            let (state, at) =
                self.snapshot.iter().chain([&whole]).find(|(_, at)| *at == tokens).expect("`cut` said so");
            Ok(Self { state: state.clone(), tokens: *at, snapshot: None })
        }

        fn snapshot(&mut self) {
            self.snapshot = Some((self.state.clone(), self.tokens));
        }
    }

    const NOBODY: [(&[u32], &[Recurrent]); 0] = [];

    fn known(bytes_max: u64) -> Known<Recurrent> {
        Known::new(bytes_max, Misses::default())
    }

    /// Two layers that have seen the prompt, a snapshot at its end, and an answer.
    fn row(prompt: &[u32], answer: &[u32]) -> (Vec<u32>, Vec<Recurrent>) {
        let mut layers = vec![Recurrent::new(); 2];
        for layer in &mut layers {
            layer.see(prompt);
            layer.snapshot();
            layer.see(answer);
        }
        ([prompt, answer].concat(), layers)
    }

    fn tokens(from: u32, count: u32) -> Vec<u32> {
        (from..from + count).collect()
    }

    #[test]
    fn a_recurrent_state_is_used_again_from_its_snapshot_and_goes_on_as_if_from_nothing() {
        let scope = Arc::from("a");
        let (said, layers) = row(&tokens(0, 40), &tokens(100, 9));
        let next = [tokens(0, 40), tokens(100, 5), tokens(700, 20)].concat();
        let mut known = known(100);
        known.kept.insert(&scope, said, layers, 1);
        let (length, layers) = known.longest(&scope, &next, NOBODY.into_iter()).expect("the prompt's end is kept");
        assert_eq!(length, 40, "what follows the snapshot is shared too, but nobody can go back to there");
        let mut fork = layers[1].fork(length, next.len()).expect("memory");
        fork.see(&next[length..]);
        let mut cold = Recurrent::new();
        cold.see(&next);
        assert_eq!((fork.values(), fork.tokens), (cold.values(), cold.tokens));
    }

    #[test]
    fn a_row_that_is_open_is_used_where_it_serves_better_than_what_is_kept() {
        let scope = Arc::from("a");
        let (said, layers) = row(&tokens(0, 20), &tokens(100, 9));
        let mut known = known(100);
        known.kept.insert(&scope, said, layers, 1);
        let (said, layers) = row(&tokens(0, 30), &[]);
        let open = [(said.as_slice(), layers.as_slice())];
        let found = known.longest(&scope, &tokens(0, 50), open.into_iter()).map(|(length, _)| length);
        assert_eq!(found, Some(30));
        assert_eq!(known.misses.last(), None);
    }

    #[test]
    fn layers_that_can_be_cut_to_different_beginnings_are_cut_to_a_common_one() {
        let one = |at: usize| {
            let mut layer = Recurrent::new();
            layer.see(&tokens(0, at as u32));
            layer.snapshot();
            layer.see(&tokens(50, 30));
            layer
        };
        assert_eq!(cache::cut(&[one(20), one(20)], 25), 20);
        assert_eq!(cache::cut(&[one(30), one(20)], 35), 0);
    }

    #[test]
    fn a_miss_is_counted_by_its_reason_with_the_place_where_the_prompt_leaves_what_is_known() {
        let (a, b): (Arc<str>, Arc<str>) = (Arc::from("a"), Arc::from("b"));
        let mut known = known(10);
        let miss = |known: &mut Known<Recurrent>, scope: &Arc<str>, prompt: &[u32]| {
            let before: u64 = known.misses.counts().map(|(_, count)| count).sum();
            assert!(known.longest(scope, prompt, NOBODY.into_iter()).is_none());
            let after: u64 = known.misses.counts().map(|(_, count)| count).sum();
            (after > before).then(|| known.misses.last().expect("one was counted"))
        };
        let prompt = tokens(0, 40);
        assert_eq!(miss(&mut known, &a, &prompt), Some((MissReason::Cold, 0)));
        let (said, layers) = row(&prompt, &tokens(100, 9));
        known.kept.insert(&a, said, layers, 10);
        assert_eq!(miss(&mut known, &a, &[tokens(0, 7), tokens(90, 30)].concat()), Some((MissReason::Diverged, 7)));
        assert_eq!(miss(&mut known, &a, &[tokens(0, 25), tokens(90, 30)].concat()), Some((MissReason::Uncuttable, 25)));
        assert_eq!(miss(&mut known, &b, &prompt), Some((MissReason::Cold, 0)), "what another scope has is not told");
        assert_eq!(miss(&mut known, &b, &prompt[..17]), None, "so short a prompt could not be spared anything");
        let (said, layers) = row(&tokens(300, 20), &[]);
        known.kept.insert(&b, said, layers, 10);
        assert_eq!(miss(&mut known, &a, &prompt), Some((MissReason::Evicted, 0)));
        assert_eq!(miss(&mut known, &b, &prompt), Some((MissReason::Diverged, 0)), "nor what it had to give up");
    }
}
