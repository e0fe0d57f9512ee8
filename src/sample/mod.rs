//! Logits to a token, as operations of MLX's graph, so that the next step can be built before this one's token is known.
//! It owns the order of processors (logit bias, repetition, presence, frequency, temperature, top-k, top-p, min-p, draw), the token
//! counts that penalties need, and the random numbers; it refuses to know wire names.
//!
//! A draw is one uniform number against the cumulative distribution. The number is made on the host from the seed and the
//! position alone, so token t of a row depends on (seed, t, logits) and on nothing else that runs.
//!
//! On the CPU device one kernel of ours does all of it; elsewhere MLX's operations do, which are its oracle too.
//!
//! Ties at a cut (top-k, top-p) are kept: they have equal claim. A row whose logits are not finite reports
//! [`NOT_FINITE`] in place of its token; the check is part of the same evaluation.

mod chance;
mod cut;
mod penalty;

use mlx_rs::ops::indexing::argmax_axis;
use mlx_rs::ops::{concatenate, select, softmax_axis};

use crate::job::Sampling;
pub use crate::kernels::NOT_FINITE;
use crate::kernels::{Rule, choose};
use crate::mlx::{Array, Dtype, Result, dim, slice};
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

/// The next token of each row, given the scores of all, `[…, R, V]`: an array `[2, R]` of `u32`, in its first row the
/// tokens, always valid ids and what the next step is fed with; in its second what to report, the same or [`NOT_FINITE`].
/// Nothing is evaluated.
///
/// # Errors
/// MLX refused.
pub fn next(samplers: &mut [&mut Sampler], scores: &Array) -> Result<Array> {
    let rules: Vec<Rule<'_>> = samplers.iter().map(|sampler| sampler.rule()).collect();
    let chosen = match choose(scores, &rules)? {
        Some(chosen) => chosen,
        None => composed(samplers, scores)?,
    };
    for (column, sampler) in samplers.iter_mut().enumerate() {
        sampler.chosen += 1;
        sampler.penalties.count(|| Ok(slice(&chosen, &[0, column], &[1, column + 1])?.reshape(&[1])?))?;
    }
    Ok(chosen)
}

/// [`next`] by MLX's operations, but for the count.
fn composed(samplers: &[&mut Sampler], scores: &Array) -> Result<Array> {
    let rows = scores.reshape(&[dim(samplers.len()), -1])?; // [R, V]
    let width = rows.shape()[1].unsigned_abs() as usize;
    let (mut tokens, mut reports) = (Vec::new(), Vec::new());
    for (row, sampler) in samplers.iter().enumerate() {
        let (token, report) = sampler.composed(&slice(&rows, &[row, 0], &[row + 1, width])?)?;
        tokens.push(token);
        reports.push(report);
    }
    tokens.extend(reports);
    Ok(concatenate(&tokens, 0)?.reshape(&[2, dim(samplers.len())])?)
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

    /// The next token and its report, `[1]` each, by MLX's operations.
    fn composed(&self, scores: &Array) -> Result<(Array, Array)> {
        let scores = scores.reshape(&[-1])?.as_dtype(Dtype::Float32)?; // [V]
        let sound = scores.sum(true)?.is_finite()?; // [1]; one NaN or infinity makes the sum one
        let scores = self.penalties.apply(scores)?;
        let token = if self.temperature > 0.0 { self.draw(&scores)? } else { argmax_axis(&scores, -1, true)? }; // [1]
        let report = select(sound, &token, Array::from_slice(&[NOT_FINITE], &[1]))?;
        Ok((token, report))
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
