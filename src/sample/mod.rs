//! Logits to a token, as operations of MLX's graph, so that the next step can be built before this one's token is known. It owns the
//! order of processors (logit bias, repetition, presence, frequency, temperature, top-k, top-p, min-p, draw), the token
//! counts that penalties need, and the random numbers; it refuses to know wire names.
//!
//! A draw is one uniform number against the cumulative distribution. The number is made on the host from the seed and the
//! position alone, so token t of a row depends on (seed, t, logits) and on nothing else that runs.
//!
//! On the CPU device one kernel of ours does all of it; elsewhere MLX's operations do, which are its oracle too.
//!
//! Ties at a cut (top-k, top-p) are kept: they have equal claim. A row whose logits are not finite reports
//! `NOT_FINITE` in place of its token; the check is part of the same evaluation.

mod chance;
mod cut;
mod penalty;

use mlx_rs::ops::indexing::argmax_axis;
use mlx_rs::ops::{select, softmax_axis};

use crate::job::Sampling;
use crate::kernels::{NOT_FINITE, Rule, choose};
use crate::mlx::{Array, Dtype, Result, item_token, slice};
use crate::sample::cut::Cut;
use crate::sample::penalty::Penalties;

/// Chooses the tokens of one row.
#[derive(Debug)]
pub struct Sampler {
    temperature: f32,
    seed: u64,
    cut: Cut,
    penalties: Penalties,
    /// Tokens chosen so far: the position of the next draw.
    chosen: u64,
}

/// A token that is perhaps not computed yet.
#[derive(Debug)]
pub struct Choice {
    /// `[1, 1]`, always a valid token id: what the next step is fed with.
    pub token: Array,
    /// One element: the token, or `NOT_FINITE`.
    report: Array,
}

impl Choice {
    /// The array whose evaluation computes the choice.
    #[must_use]
    pub fn report(&self) -> &Array {
        &self.report
    }

    /// Waits for the token; `None` when the logits were not finite.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&self) -> Result<Option<u32>> {
        let token = item_token(&self.report)?;
        Ok((token != NOT_FINITE).then_some(token))
    }
}

impl Sampler {
    /// A sampler for a row with this prompt, over logits of `width` tokens.
    #[must_use]
    pub fn new(sampling: &Sampling, prompt: &[u32], width: usize) -> Self {
        Self {
            temperature: sampling.temperature,
            seed: sampling.seed,
            cut: Cut::new(sampling, width),
            penalties: Penalties::new(sampling, prompt, width),
            chosen: 0,
        }
    }

    /// The next token, given its logits `[1, 1, width]`. Nothing is evaluated.
    ///
    /// # Errors
    /// MLX refused.
    pub fn next(&mut self, logits: &Array) -> Result<Choice> {
        let choice = match choose(logits, &[self.rule()])? {
            // Both as `[1, 1]`.
            Some(chosen) => {
                Choice { token: slice(&chosen, &[0, 0], &[1, 1])?, report: slice(&chosen, &[1, 0], &[2, 1])? }
            }
            None => self.composed(logits)?,
        };
        self.chosen += 1;
        self.penalties.count(&choice.token.reshape(&[1])?)?;
        Ok(choice)
    }

    /// What the kernel needs to know of the next choice.
    fn rule(&self) -> Rule<'_> {
        let Self { temperature, seed, cut, penalties, chosen } = self;
        Rule {
            bias: penalties.bias.as_ref(),
            repetition: penalties.repetition.as_ref().map(|(penalty, prompt)| (*penalty, prompt)),
            presence: penalties.presence.unwrap_or(0.0),
            frequency: penalties.frequency.unwrap_or(0.0),
            counts: penalties.counts.as_ref(),
            temperature: *temperature,
            top_k: cut.top_k,
            top_p: cut.top_p,
            min_p_log: cut.min_p_log,
            aim: chance::uniform(*seed, *chosen),
        }
    }

    /// The next token by MLX's operations.
    fn composed(&self, logits: &Array) -> Result<Choice> {
        let logits = logits.reshape(&[-1])?.as_dtype(Dtype::Float32)?; // [V]
        let sound = logits.sum(true)?.is_finite()?; // [1]; one NaN or infinity makes the sum one
        let scores = self.penalties.apply(logits)?;
        let token = if self.temperature > 0.0 { self.draw(&scores)? } else { argmax_axis(&scores, -1, true)? }; // [1]
        let failed = Array::from_slice(&[NOT_FINITE], &[1]);
        Ok(Choice { token: token.reshape(&[1, 1])?, report: select(sound, &token, failed)? })
    }

    /// A token with the probability that the scores give it.
    fn draw(&self, scores: &Array) -> Result<Array> {
        let scaled = scores.divide(Array::from_f32(self.temperature))?;
        let kept = self.cut.apply(scaled)?;
        let cumulative = softmax_axis(kept, -1, None)?.cumsum(-1, None, None)?; // [V]
        let total = cumulative.max(true)?; // [1]; about 1
        let aim = total.multiply(Array::from_f32(chance::uniform(self.seed, self.chosen)))?;
        // The first token whose share ends beyond the aim. A token without a share never is: it ends where the one
        // before it does.
        Ok(argmax_axis(cumulative.gt(aim)?, -1, true)?)
    }
}

#[cfg(test)]
mod tests;
