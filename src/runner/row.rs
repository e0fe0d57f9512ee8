//! One row: its prompt, its caches, its sampler, and the steps under way. It owns invariant 7: what is recorded is what
//! the cache holds, but for a draft that is being checked, of which only the tokens that prove right stay.

use std::sync::Arc;

use crate::cache::{KvCache, State};
use crate::engine::backend::Decoded;
use crate::mlx::{Array, Result, eval, from_tokens};
use crate::model::{Model, Sequence};
use crate::runner::batch::Pending;
use crate::runner::draft::{Drafter, Drafting, Guess};
use crate::sample::{Choice, Draws, Sampler};

/// A generation that is open.
#[derive(Debug)]
pub(super) struct Row {
    /// The prompt, and behind it the tokens returned.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Those of `tokens` that are evaluated or returned.
    recorded: usize,
    /// Tokens of prompt and answer at most.
    tokens_max: usize,
    /// Where its states are left; see `Job::bucket`.
    bucket: Option<Arc<str>>,
    /// One a layer.
    pub(super) caches: Vec<KvCache>,
    /// The caches without the step that is built and not submitted, for a row that ends before it is.
    pub(super) before: Option<Vec<KvCache>>,
    pub(super) sampler: Sampler,
    /// The scores of the next token, and of those behind a draft; there once the prompt is evaluated.
    pub(super) pending: Option<Pending>,
    /// What is guessed to follow `tokens`, in the caches behind them.
    draft: Vec<u32>,
    /// None if the row makes no guesses.
    drafter: Option<Drafter>,
}

/// What a row leaves behind.
#[derive(Debug)]
pub(super) struct Left {
    /// Where it is left.
    pub(super) bucket: Option<Arc<str>>,
    /// The tokens that the caches hold.
    pub(super) tokens: Vec<u32>,
    /// One a layer.
    pub(super) caches: Vec<KvCache>,
}

impl Row {
    /// A row of which nothing is computed, and of which no more tokens than these are wanted.
    pub(super) fn new(prompt: &[u32], bucket: Option<&Arc<str>>, sampler: Sampler, tokens_max: usize) -> Self {
        Self {
            tokens: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            recorded: 0,
            tokens_max,
            bucket: bucket.cloned(),
            caches: Vec::new(),
            before: None,
            sampler,
            pending: None,
            draft: Vec::new(),
            drafter: None,
        }
    }

    /// The row makes guesses from now on, if its tokens can be chosen several at once.
    pub(super) fn guess_ahead(&mut self) {
        self.drafter = (!self.sampler.follows_tokens()).then(Drafter::default);
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

    /// Where its states are left.
    pub(super) fn bucket(&self) -> Option<&Arc<str>> {
        self.bucket.as_ref()
    }

    /// What is computed of the row, and submitted: the tokens, and caches that hold them.
    pub(super) fn computed(&self) -> (&[u32], &[KvCache]) {
        let caches = self.before.as_ref().unwrap_or(&self.caches);
        let tokens = caches.first().map_or(0, KvCache::tokens).min(self.recorded);
        (&self.tokens[..tokens], caches)
    }

    /// Tokens of the prompt that are not evaluated.
    pub(super) fn prompt_left(&self) -> u32 {
        u32::try_from(self.prompt_tokens.saturating_sub(self.recorded)).expect("a prompt fits the context")
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
            self.pending = Pending::of_pass(scores, &[1]).pop();
        } else {
            model.remember(&chunk, &mut [sequence])?;
            eval(self.cached())?;
        }
        self.recorded = end;
        if let Some(drafter) = &mut self.drafter {
            drafter.learn(&self.tokens[..end]);
        }
        self.check();
        Ok(self.prompt_left())
    }

    /// What is asked of the sampler in the next step.
    pub(super) fn draws(&mut self) -> Draws<'_> {
        Draws { count: 1 + self.draft.len(), sampler: &mut self.sampler }
    }

    /// Whether the next step checks a draft.
    pub(super) fn drafts(&self) -> bool {
        !self.draft.is_empty()
    }

    /// Takes what was chosen behind the last token and behind each of its draft, as far as the draft is what was chosen.
    pub(super) fn take(&mut self, choices: impl Iterator<Item = Choice>, drafting: Option<&Drafting>) -> Decoded {
        let draft = std::mem::take(&mut self.draft);
        let mut tokens = Vec::with_capacity(1 + draft.len());
        for (at, choice) in choices.enumerate() {
            match choice {
                Choice::Token(token) => {
                    self.tokens.push(token.id);
                    self.sampler.accept(token.id);
                    let guessed = draft.get(at) == Some(&token.id);
                    tokens.push(token);
                    if !guessed {
                        break;
                    }
                }
                Choice::Failed(reason) if at == 0 => return self.fail(reason),
                // It fails again in a step of its own; what came before it counts.
                Choice::Failed(_) => break,
            }
        }
        let right = tokens.len() - 1;
        self.recorded += tokens.len();
        self.sampler.forget(draft.len() - right);
        self.caches.iter_mut().for_each(|cache| cache.trim(draft.len() - right));
        if let Some(drafter) = &mut self.drafter {
            drafter.note(draft.len(), right, tokens.len());
        }
        if let Some(drafting) = drafting {
            drafting.count(draft.len(), right);
        }
        Decoded::Tokens(tokens)
    }

    /// Nobody may go on from what led here.
    fn fail(&mut self, reason: String) -> Decoded {
        self.recorded = 0;
        self.caches.clear();
        self.before = None;
        self.pending = None;
        Decoded::Failed(reason)
    }

    /// Whether its last choice failed.
    pub(super) fn has_failed(&self) -> bool {
        self.caches.is_empty()
    }

    /// Whether the token that comes next may lead to a draft.
    pub(super) fn may_draft(&self, drafting: &Drafting) -> bool {
        self.drafter.as_ref().is_some_and(|drafter| drafting.may_pay(drafter))
    }

    /// What it could draft behind its last token; there is to be room for the token behind the draft.
    pub(super) fn guess(&mut self) -> Option<Guess> {
        let room = self.tokens_max.saturating_sub(self.tokens.len() + 1);
        self.drafter.as_mut()?.guess(&self.tokens, room)
    }

    /// So many tokens of a guess.
    pub(super) fn draft(&self, guess: Option<Guess>, count: usize) -> Vec<u32> {
        guess.map_or_else(Vec::new, |guess| guess.draft(&self.tokens, count))
    }

    /// The tokens of the pass that is to be built: the last one, and what is guessed to follow it.
    pub(super) fn feed(&mut self, draft: Vec<u32>) -> Vec<u32> {
        self.draft = draft;
        let last = self.tokens.last().copied().expect("a row has a prompt");
        std::iter::once(last).chain(self.draft.iter().copied()).collect()
    }

    /// Sees to it that the caches take so many more tokens where they are.
    pub(super) fn make_room(&mut self, count: usize) -> Result<()> {
        self.caches.iter_mut().try_for_each(|cache| cache.make_room(count))
    }

    /// Takes back the pass that was built last, with no draft in it.
    pub(super) fn unbuild(&mut self) {
        self.pending = None;
        match self.before.take() {
            Some(before) => self.caches = before,
            None => self.caches.iter_mut().for_each(|cache| cache.trim(1)),
        }
    }

    /// Ends the row. The caches that it leaves hold nothing that is still to be computed: a step that was not submitted never
    /// will be for this row, one that was is waited for.
    pub(super) fn close(mut self) -> Result<Left> {
        self.forget_unrecorded();
        if let Some(before) = self.before.take().filter(|_| self.recorded > 0) {
            self.caches = before;
        }
        eval(self.cached())?;
        self.tokens.truncate(self.caches.first().map_or(0, KvCache::tokens));
        Ok(Left { bucket: self.bucket, tokens: self.tokens, caches: self.caches })
    }

    /// Takes from the caches what no returned token accounts for.
    fn forget_unrecorded(&mut self) {
        self.draft.clear();
        let recorded = self.recorded;
        for cache in &mut self.caches {
            cache.trim(cache.tokens() - recorded);
        }
        self.check();
    }

    /// Invariant 7.
    pub(super) fn check(&self) {
        let held = self.recorded + self.draft.len();
        assert!(self.caches.iter().all(|cache| cache.tokens() == held), "recorded tokens are the tokens in the cache");
    }

    fn cached(&self) -> impl Iterator<Item = &Array> {
        self.caches.iter().flat_map(KvCache::arrays)
    }
}
