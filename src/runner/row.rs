//! One row: its prompt, its caches, its sampler, and the steps under way. It owns invariant 7: what is recorded is what
//! the cache holds.

use crate::cache::KvCache;
use crate::engine::backend::Decoded;
use crate::job::Sampling;
use crate::mlx::{Array, Device, Result, async_eval, device, eval, from_tokens};
use crate::model::Model;
use crate::sample::{Choice, Sampler};

/// Why a row whose logits are NaN or infinite cannot go on.
const NOT_FINITE: &str = "the model's logits are not finite";

/// A generation that is open.
#[derive(Debug)]
pub(super) struct Row {
    prompt: Vec<u32>,
    /// Prompt tokens evaluated and tokens returned.
    recorded: usize,
    /// One a layer.
    caches: Vec<KvCache>,
    sampler: Sampler,
    /// The next token to return; there once the prompt is evaluated.
    pending: Option<Choice>,
    /// The one after it, while a call is on its way to return the pending one.
    following: Option<Choice>,
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
        if end == self.prompt.len() {
            let logits = model.forward(&chunk, &mut self.caches)?;
            let first = self.sampler.next(&logits)?;
            eval(self.cached().chain([first.report()]))?;
            self.pending = Some(first);
        } else {
            model.remember(&chunk, &mut self.caches)?;
            eval(self.cached())?;
        }
        self.recorded = end;
        self.check();
        Ok(u32::try_from(self.prompt.len() - end).expect("a prompt fits the context"))
    }

    /// Builds the step after the pending one and sees to it that the device has work; see the module `runner`.
    pub(super) fn run_ahead(&mut self, model: &dyn Model) -> Result<()> {
        let pending = self.pending.as_ref().expect("the engine decodes only complete prompts");
        if device() == Device::Cpu {
            async_eval([pending.report()])?;
        }
        let logits = model.forward(&pending.token, &mut self.caches)?;
        let following = self.sampler.next(&logits)?;
        if device() == Device::Gpu {
            async_eval([following.report()])?;
        }
        self.following = Some(following);
        Ok(())
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
