//! Logits to a token, as operations of MLX's graph, so that the next step can be built before this one's token is known.
//! It owns the order of processors (mask, logit bias, repetition, presence, frequency, temperature, top-k, top-p, min-p,
//! typical-p, draw), the token counts that penalties need, and the random numbers; it refuses to know wire names.
//!
//! A draw is one uniform number against the cumulative distribution. The number is made on the host from the seed and the
//! position alone, so token t of a row depends on (seed, t, logits) and on nothing else that runs.
//!
//! On the CPU device one kernel of ours does all of it; elsewhere MLX's operations do, which are its oracle too.
//!
//! Ties at a cut (top-k, top-p, typical-p) are kept: they have equal claim. A row whose logits are not finite reports that
//! in place of its token; the check is part of the same evaluation.

mod chance;
mod cut;
mod mask;
mod penalty;

use mlx_rs::ops::indexing::argmax_axis;
use mlx_rs::ops::{argpartition_axis, concatenate, select, softmax_axis};

use crate::job::{Constraint, Logprobs, Sampling, Token};
use crate::kernels::{NOT_FINITE, Rule, choose, height};
use crate::mlx::{Array, Dtype, Result, dim, slice, to_u32_vec};
use crate::sample::cut::Cut;
use crate::sample::mask::Allowed;
use crate::sample::penalty::Penalties;

/// Chooses the tokens of one row.
#[derive(Debug)]
pub struct Sampler {
    temperature: f32,
    seed: u64,
    /// Log probabilities are told, of so many of the likeliest too.
    logprobs: Option<usize>,
    cut: Cut,
    penalties: Penalties,
    allowed: Allowed,
    /// Tokens chosen so far: the position of the next draw.
    chosen: u64,
}

/// What is asked of one row: so many tokens at positions that follow each other, at least one. Several are chosen as if each
/// were followed by what comes after it in the pass; [`Sampler::forget`] takes back those for which that was wrong.
#[derive(Debug)]
pub struct Draws<'a> {
    /// The row's.
    pub sampler: &'a mut Sampler,
    /// Tokens; more than one only if none depends on those before it ([`Sampler::follows_tokens`]).
    pub count: usize,
}

/// What became of a row's choice.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// Its next token.
    Token(Token),
    /// Why the row cannot go on.
    Failed(String),
}

/// The next tokens of each row, given the scores of all, `[…, R, V]` with the positions of a row one after the other, as
/// [`crate::kernels::choose()`] lays it out: in its first row the tokens, always valid ids and what the next step is fed
/// with; [`read`] takes the rest. Nothing is evaluated, but masks are waited for.
///
/// # Errors
/// MLX refused.
pub fn next(rows: &mut [Draws<'_>], scores: &Array) -> Result<Array> {
    for Draws { sampler, count } in rows.iter_mut() {
        assert!(*count == 1 || !sampler.follows_tokens(), "a token that depends on another one is not chosen with it");
        sampler.allowed.wait(sampler.chosen);
    }
    let chosen = match choose(scores, &rules(rows))? {
        Some(chosen) => chosen,
        None => composed(rows, scores)?,
    };
    let mut column = 0;
    for Draws { sampler, count } in rows.iter_mut() {
        sampler.chosen += *count as u64;
        sampler.penalties.count(|| Ok(slice(&chosen, &[0, column], &[1, column + 1])?.reshape(&[1])?))?;
        column += *count;
    }
    Ok(chosen)
}

/// Of every column of a choice.
fn rules<'a>(rows: &'a [Draws<'_>]) -> Vec<Rule<'a>> {
    rows.iter().flat_map(|Draws { sampler, count }| (0..*count).map(|ahead| sampler.rule(ahead))).collect()
}

/// What [`next`] has chosen, given the sampler of each column; waits for it.
///
/// # Errors
/// The device failed.
pub fn read(samplers: &[&Sampler], chosen: &Array) -> Result<Vec<Choice>> {
    let words = to_u32_vec(chosen)?;
    let rows = samplers.len();
    let top = (words.len() / rows).saturating_sub(3) / 2;
    let one = |(column, sampler): (usize, &&Sampler)| {
        let word = |row: usize| words[row * rows + column];
        if let Some(reason) = sampler.allowed.failure() {
            return Choice::Failed(reason.to_owned());
        }
        if word(1) == NOT_FINITE {
            return Choice::Failed("the model's logits are not finite".to_owned());
        }
        let logprobs = sampler.logprobs.map(|count| {
            let mut top: Vec<(u32, f32)> =
                (3..3 + top.min(count)).map(|row| (word(row), f32::from_bits(word(row + top)))).collect();
            top.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            Box::new(Logprobs { chosen: f32::from_bits(word(2)), top })
        });
        Choice::Token(Token { id: word(1), logprobs })
    };
    Ok(samplers.iter().enumerate().map(one).collect())
}

/// [`next`] by MLX's operations, but for the count.
fn composed(rows: &[Draws<'_>], scores: &Array) -> Result<Array> {
    let rules = rules(rows);
    let scores = scores.reshape(&[dim(rules.len()), -1])?; // [R, V]
    let width = scores.shape()[1].unsigned_abs() as usize;
    let height = height(&rules);
    let samplers = rows.iter().flat_map(|Draws { sampler, count }| std::iter::repeat_n(sampler, *count));
    let columns = samplers.zip(&rules).enumerate().map(|(row, (sampler, rule))| {
        let column = sampler.composed(&slice(&scores, &[row, 0], &[row + 1, width])?, rule, height)?;
        Ok(column.reshape(&[dim(height), 1])?)
    });
    Ok(concatenate(&columns.collect::<Result<Vec<_>>>()?, 1)?)
}

impl Sampler {
    /// A sampler for a row with this prompt, over logits of `width` tokens.
    #[must_use]
    pub fn new(sampling: &Sampling, prompt: &[u32], width: usize, constraint: Option<Box<dyn Constraint>>) -> Self {
        Self {
            temperature: sampling.temperature,
            seed: sampling.seed,
            logprobs: sampling.logprobs.map(|top| (top as usize).min(width)),
            cut: Cut::new(sampling, width),
            penalties: Penalties::new(sampling, prompt, width),
            allowed: Allowed::new(sampling, width, constraint),
            chosen: 0,
        }
    }

    /// The row goes on with this token, which [`read`] has told.
    pub fn accept(&mut self, token: u32) {
        self.allowed.accept(token);
    }

    /// Whether a token depends on those before it by more than its scores: through penalties, or what may come at all.
    #[must_use]
    pub fn follows_tokens(&self) -> bool {
        self.penalties.follow_tokens() || self.allowed.follows_tokens()
    }

    /// The last so many choices do not count, because they were not made of what came before them.
    pub fn forget(&mut self, choices: usize) {
        assert!(choices == 0 || !self.follows_tokens(), "what was counted is not forgotten");
        self.chosen -= choices as u64;
    }

    /// What the kernel needs to know of the choice that is so many positions ahead of the next one.
    fn rule(&self, ahead: usize) -> Rule<'_> {
        let position = self.chosen + ahead as u64;
        let mask = if ahead == 0 { self.allowed.mask() } else { self.allowed.mask_ahead(position) };
        let Self { temperature, seed, logprobs, cut, penalties, allowed: _, chosen: _ } = self;
        Rule {
            allowed: mask,
            bias: penalties.bias.as_ref(),
            repetition: penalties.repetition.as_ref().map(|(penalty, prompt)| (*penalty, prompt)),
            presence: penalties.presence.unwrap_or(0.0),
            frequency: penalties.frequency.unwrap_or(0.0),
            counts: penalties.counts.as_ref(),
            temperature: *temperature,
            top_k: cut.top_k,
            top_p: cut.top_p,
            min_p_log: cut.min_p_log,
            typical_p: cut.typical_p,
            logprobs: *logprobs,
            aim: chance::uniform(*seed, position),
        }
    }

    /// This row's column of the choice, `[height]`, by MLX's operations.
    fn composed(&self, scores: &Array, rule: &Rule<'_>, height: usize) -> Result<Array> {
        let scores = scores.reshape(&[-1])?.as_dtype(Dtype::Float32)?; // [V]
        let sound = scores.sum(true)?.is_finite()?; // [1]; one NaN or infinity makes the sum one
        let scores = self.penalties.apply(Allowed::apply(rule.allowed, scores)?)?;
        let token =
            if self.temperature > 0.0 { self.draw(&scores, rule.aim)? } else { argmax_axis(&scores, -1, true)? }; // [1]
        let report = select(sound, &token, Array::from_slice(&[NOT_FINITE], &[1]))?;
        let mut column = vec![token, report];
        if height > 2 {
            column.extend(tell(&scores, &column[0], (height - 3) / 2)?);
        }
        Ok(concatenate(&column, 0)?)
    }

    /// A token with the probability that the scores give it.
    fn draw(&self, scores: &Array, aim: f32) -> Result<Array> {
        let scaled = scores.divide(Array::from_f32(self.temperature))?;
        let kept = self.cut.apply(scaled)?;
        let cumulative = softmax_axis(kept, -1, None)?.cumsum(-1, None, None)?; // [V]
        let total = cumulative.max(true)?; // [1]; about 1
        let aim = total.multiply(Array::from_f32(aim))?;
        // The first token whose share ends beyond the aim. A token without a share never is: it ends where the one
        // before it does.
        Ok(argmax_axis(cumulative.gt(aim)?, -1, true)?)
    }
}

/// The log probability of a token, the ids of so many of the likeliest, and theirs.
fn tell(scores: &Array, token: &Array, top: usize) -> Result<[Array; 3]> {
    let logprobs = scores.subtract(scores.logsumexp(true)?)?; // [V]
    let width = logprobs.size();
    let told = top.min(width);
    let places = if told == 0 {
        Array::from_slice::<u32>(&[], &[0])
    } else {
        let parted = argpartition_axis(&logprobs, dim(width - told), -1)?;
        slice(&parted, &[width - told], &[width])?
    };
    let bits = |places: &Array| -> Result<Array> { Ok(logprobs.take_axis(places, -1)?.view::<u32>()?) };
    let rest = Array::from_slice(&vec![0_u32; top - told], &[dim(top - told)]);
    let padded = |array: Array| -> Result<Array> { Ok(concatenate(&[&array, &rest], 0)?) };
    Ok([bits(token)?, padded(places.as_dtype(Dtype::Uint32)?)?, padded(bits(&places)?)?])
}

#[cfg(test)]
mod tests;
