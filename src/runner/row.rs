//! One row: its prompt, its caches, its sampler, and the steps under way. It owns invariant 7: what is recorded is what
//! the cache holds.

use crate::cache::KvCache;
use crate::engine::backend::Decoded;
use crate::job::Sampling;
use crate::mlx::{Array, Result, eval, from_tokens};
use crate::model::{Model, Sequence};
use crate::runner::batch::Pending;
use crate::sample::{self, Sampler};

/// Why a row whose logits are NaN or infinite cannot go on.
const NOT_FINITE: &str = "the model's logits are not finite";

/// A generation that is open.
#[derive(Debug)]
pub(super) struct Row {
    prompt: Vec<u32>,
    /// Prompt tokens evaluated and tokens returned.
    recorded: usize,
    /// One a layer.
    pub(super) caches: Vec<KvCache>,
    pub(super) sampler: Sampler,
    /// The next token to return; there once the prompt is evaluated.
    pub(super) pending: Option<Pending>,
    /// The one after it, while a call is on its way to return the pending one.
    pub(super) following: Option<Pending>,
}

impl Row {
    pub(super) fn new(caches: Vec<KvCache>, prompt: &[u32], sampling: &Sampling, width: usize) -> Self {
        let sampler = Sampler::new(sampling, prompt, width);
        Self { prompt: prompt.to_vec(), recorded: 0, caches, sampler, pending: None, following: None }
    }

    /// Evaluates the next at most `tokens` of the prompt; how many are left. The last chunk also computes the first token.
    pub(super) fn prefill(&mut self, model: &dyn Model, tokens: u32) -> Result<u32> {
        let end = self.prompt.len().min(self.recorded + tokens.max(1) as usize);
        assert!(self.recorded < end, "a complete prompt is not evaluated again");
        let chunk = from_tokens(&self.prompt[self.recorded..end]);
        let sequence = Sequence { caches: &mut self.caches, count: end - self.recorded };
        if end == self.prompt.len() {
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
        Ok(u32::try_from(self.prompt.len() - end).expect("a prompt fits the context"))
    }

    /// Waits for the pending token and returns it.
    pub(super) fn take(&mut self) -> Result<Decoded> {
        let pending = self.pending.take().expect("the engine decodes only complete prompts");
        self.pending = self.following.take();
        match pending.read()? {
            Some(token) => {
                self.recorded += 1;
                self.check();
                Ok(Decoded::Token(token))
            }
            None => {
                self.forget_unrecorded();
                Ok(Decoded::Failed(NOT_FINITE.to_owned()))
            }
        }
    }

    /// Ends the row. Work under way is dropped unread; MLX keeps what the device still uses.
    pub(super) fn close(mut self) {
        self.forget_unrecorded();
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
