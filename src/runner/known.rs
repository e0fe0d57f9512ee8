//! What was computed before and a prompt can begin with: the states of open rows and of closed ones, of the same scope. It
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
