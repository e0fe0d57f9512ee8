//! Logits to a token, as MLX operations, so that the next step can be built before this one's token is known. It owns the
//! order of processors (logit bias, repetition, presence, frequency, temperature, top-k, top-p, min-p, draw), the token
//! counts that penalties need, and the random numbers; it refuses to know wire names.
//!
//! A draw is one uniform number against the cumulative distribution. The number is made on the host from the seed and the
//! position alone, so token t of a row depends on (seed, t, logits) and on nothing else that runs.
//!
//! Ties at a cut (top-k, top-p) are kept: they have equal claim. A row whose logits are not finite reports
//! `Choice::FAILED` in place of its token; the check is part of the same evaluation.

mod chance;
mod cut;
mod penalty;

use mlx_rs::ops::indexing::argmax_axis;
use mlx_rs::ops::{select, softmax_axis};

use crate::job::Sampling;
use crate::mlx::{Array, Dtype, Result, item_token};
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
    /// `[1]`: the token, or `Choice::FAILED`.
    report: Array,
}

impl Choice {
    /// What the report says in place of a token when the logits were not finite.
    const FAILED: u32 = u32::MAX;

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
        Ok((token != Self::FAILED).then_some(token))
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
        let logits = logits.reshape(&[-1])?.as_dtype(Dtype::Float32)?; // [V]
        let sound = logits.sum(true)?.is_finite()?; // [1]; one NaN or infinity makes the sum one
        let scores = self.penalties.apply(logits)?;
        let token = if self.temperature > 0.0 { self.draw(&scores)? } else { argmax_axis(&scores, -1, true)? }; // [1]
        self.chosen += 1;
        self.penalties.count(&token)?;
        let failed = Array::from_slice(&[Choice::FAILED], &[1]);
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
