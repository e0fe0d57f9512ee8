//! One row: its prompt, its caches, its sampler, and the steps under way. It owns invariant 7: what is recorded is what
//! the cache holds.

use std::sync::Arc;

use crate::cache::{KvCache, State};
use crate::engine::backend::Decoded;
use crate::mlx::{Array, Result, eval, from_tokens};
use crate::model::{Model, Sequence};
use crate::runner::batch::Pending;
use crate::sample::{Choice, Sampler};

/// A generation that is open.
#[derive(Debug)]
pub(super) struct Row {
    /// The prompt, and behind it the tokens returned.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Those of `tokens` that are evaluated or returned.
    recorded: usize,
    /// Whose row it is; see `Job::scope`.
    scope: Arc<str>,
    /// One a layer.
    pub(super) caches: Vec<KvCache>,
    /// The caches without the step that is built and not submitted, for a row that ends before it is.
    pub(super) before: Option<Vec<KvCache>>,
    pub(super) sampler: Sampler,
    /// The scores of the next token; there once the prompt is evaluated.
    pub(super) pending: Option<Pending>,
}

impl Row {
    /// A row of which nothing is computed.
    pub(super) fn new(prompt: &[u32], scope: &Arc<str>, sampler: Sampler) -> Self {
        Self {
            tokens: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            recorded: 0,
            scope: Arc::clone(scope),
            caches: Vec::new(),
            before: None,
            sampler,
            pending: None,
        }
    }

    /// Takes the caches that it goes on with, which hold the beginning of its prompt or nothing.
    pub(super) fn begin(&mut self, caches: Vec<KvCache>) {
        assert!(self.caches.is_empty(), "a row begins once");
        self.recorded = caches.first().map_or(0, KvCache::tokens);
        assert!(self.recorded < self.prompt_tokens, "something of a prompt is always evaluated");
        self.caches = caches;
    }

    /// The prompt.
    pub(super) fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_tokens]
    }

    /// Whose row it is.
    pub(super) fn scope(&self) -> &Arc<str> {
        &self.scope
    }

    /// What is computed of the row, and submitted: the tokens, and caches that hold them.
    pub(super) fn computed(&self) -> (&[u32], &[KvCache]) {
        let caches = self.before.as_ref().unwrap_or(&self.caches);
        let tokens = caches.first().map_or(0, KvCache::tokens).min(self.recorded);
        (&self.tokens[..tokens], caches)
    }

    /// Evaluates the next at most `tokens` of the prompt; how many are left. The last chunk also computes the scores of the
    /// first token.
    pub(super) fn prefill(&mut self, model: &dyn Model, tokens: u32) -> Result<u32> {
        let end = self.prompt_tokens.min(self.recorded + tokens.max(1) as usize);
        assert!(self.recorded < end, "a complete prompt is not evaluated again");
        self.make_room(end - self.recorded)?;
        let chunk = from_tokens(&self.tokens[self.recorded..end]);
        let sequence = Sequence { caches: &mut self.caches, count: end - self.recorded };
        if end == self.prompt_tokens {
            let scores = model.forward(&chunk, &mut [sequence])?;
            eval(self.cached().chain([&scores]))?;
            // The next prompt of a conversation begins with this one, whatever becomes of the answer.
            self.caches.iter_mut().for_each(State::snapshot);
            self.pending = Pending::of_pass(scores, 1).pop();
        } else {
            model.remember(&chunk, &mut [sequence])?;
            eval(self.cached())?;
        }
        self.recorded = end;
        self.check();
        Ok(u32::try_from(self.prompt_tokens - end).expect("a prompt fits the context"))
    }

    /// Takes the token that was chosen.
    pub(super) fn take(&mut self, choice: Choice) -> Decoded {
        match choice {
            Choice::Token(token) => {
                self.tokens.push(token.id);
                self.recorded += 1;
                self.sampler.accept(token.id);
                self.check();
                Decoded::Token(token)
            }
            Choice::Failed(reason) => {
                // Nobody may go on from what led here.
                self.recorded = 0;
                self.forget_unrecorded();
                Decoded::Failed(reason)
            }
        }
    }

    /// Sees to it that the caches take so many more tokens where they are.
    pub(super) fn make_room(&mut self, count: usize) -> Result<()> {
        self.caches.iter_mut().try_for_each(|cache| cache.make_room(count))
    }

    /// Ends the row: whose it was, the tokens that its caches hold, and the caches, which hold nothing that is still to be
    /// computed: a step that was not submitted never will be for this row, one that was is waited for.
    pub(super) fn close(mut self) -> Result<(Arc<str>, Vec<u32>, Vec<KvCache>)> {
        self.forget_unrecorded();
        if let Some(before) = self.before.take().filter(|_| self.recorded > 0) {
            self.caches = before;
        }
        eval(self.cached())?;
        self.tokens.truncate(self.caches.first().map_or(0, KvCache::tokens));
        Ok((self.scope, self.tokens, self.caches))
    }

    /// Takes from the caches what no returned token accounts for.
    fn forget_unrecorded(&mut self) {
        let recorded = self.recorded;
        for cache in &mut self.caches {
            cache.trim(cache.tokens() - recorded);
        }
        self.check();
    }

    /// Invariant 7.
    fn check(&self) {
        let agrees = self.caches.iter().all(|cache| cache.tokens() == self.recorded);
        assert!(agrees, "recorded tokens are the tokens in the cache");
    }

    fn cached(&self) -> impl Iterator<Item = &Array> {
        self.caches.iter().flat_map(KvCache::arrays)
    }
}
