//! One row: its prompt, its caches, its sampler, and the steps under way. It owns invariant 7: what is recorded is what
//! the cache holds.

use std::sync::Arc;

use crate::cache::KvCache;
use crate::engine::backend::Decoded;
use crate::mlx::{Array, Result, eval, from_tokens};
use crate::model::{Model, Sequence};
use crate::runner::batch::Pending;
use crate::sample::{self, Sampler};

/// Why a row whose logits are NaN or infinite cannot go on.
const NOT_FINITE: &str = "the model's logits are not finite";

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
    /// The next token to return; there once the prompt is evaluated.
    pub(super) pending: Option<Pending>,
    /// The one after it, while a call is on its way to return the pending one.
    pub(super) following: Option<Pending>,
}

impl Row {
    /// A row whose caches hold the beginning of its prompt already, or nothing.
    pub(super) fn new(caches: Vec<KvCache>, prompt: &[u32], scope: &Arc<str>, sampler: Sampler) -> Self {
        let recorded = caches.first().map_or(0, KvCache::tokens);
        assert!(recorded < prompt.len(), "something of a prompt is always evaluated");
        Self {
            tokens: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            recorded,
            scope: Arc::clone(scope),
            caches,
            before: None,
            sampler,
            pending: None,
            following: None,
        }
    }

    /// Evaluates the next at most `tokens` of the prompt; how many are left. The last chunk also computes the first token.
    pub(super) fn prefill(&mut self, model: &dyn Model, tokens: u32) -> Result<u32> {
        let end = self.prompt_tokens.min(self.recorded + tokens.max(1) as usize);
        assert!(self.recorded < end, "a complete prompt is not evaluated again");
        let chunk = from_tokens(&self.tokens[self.recorded..end]);
        let sequence = Sequence { caches: &mut self.caches, count: end - self.recorded };
        if end == self.prompt_tokens {
            let scores = model.forward(&chunk, &mut [sequence])?;
            let chosen = sample::next(&mut [&mut self.sampler], &scores)?;
            eval(self.cached().chain([&chosen]))?;
            self.pending = Pending::of_batch(chosen, 1).pop();
        } else {
            model.remember(&chunk, &mut [sequence])?;
            eval(self.cached())?;
        }
        self.recorded = end;
        self.check();
        Ok(u32::try_from(self.prompt_tokens - end).expect("a prompt fits the context"))
    }

    /// Waits for the pending token and returns it.
    pub(super) fn take(&mut self) -> Result<Decoded> {
        let pending = self.pending.take().expect("the engine decodes only complete prompts");
        self.pending = self.following.take();
        match pending.read()? {
            Some(token) => {
                self.tokens.push(token);
                self.recorded += 1;
                self.check();
                Ok(Decoded::Token(token))
            }
            None => {
                // Nobody may go on from what led here.
                self.recorded = 0;
                self.forget_unrecorded();
                Ok(Decoded::Failed(NOT_FINITE.to_owned()))
            }
        }
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
