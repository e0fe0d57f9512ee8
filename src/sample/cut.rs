//! Which tokens may be drawn at all. Top-k, top-p and min-p each come down to a least score, so a cut is one comparison
//! with the highest of them; tokens are never moved. Only top-p sorts, and with top-k it sorts just the k. What is typical
//! is asked of what those leave.

use mlx_rs::ops::{argsort_axis, cumsum, partition_axis, select, softmax_axis, sort_axis};

use crate::job::Sampling;
use crate::mlx::{Array, Result, dim, slice};

/// The cut of one row; neutral parts are `None`.
#[derive(Debug)]
pub(super) struct Cut {
    /// Keep this many of the highest; below the width.
    pub(super) top_k: Option<usize>,
    /// Keep the fewest of the highest that reach this probability together; above 0, below 1.
    pub(super) top_p: Option<f32>,
    /// Keep what is at least this times as likely as the highest, as a natural logarithm.
    pub(super) min_p_log: Option<f32>,
    /// Of what is left, keep the fewest of those nearest to its entropy that reach this probability together; above 0,
    /// below 1.
    pub(super) typical_p: Option<f32>,
    /// Tokens that are scored.
    width: usize,
}

impl Cut {
    pub(super) fn new(sampling: &Sampling, width: usize) -> Self {
        let top_k = sampling.top_k as usize;
        Self {
            top_k: (1..width).contains(&top_k).then_some(top_k),
            // At 0 the most likely token is kept, as with any number too small for a second one.
            top_p: (sampling.top_p < 1.0).then_some(sampling.top_p.max(f32::MIN_POSITIVE)),
            min_p_log: (sampling.min_p > 0.0).then_some(sampling.min_p.ln()),
            typical_p: (sampling.typical_p < 1.0).then_some(sampling.typical_p.max(f32::MIN_POSITIVE)),
            width,
        }
    }

    /// Scores `[V]`, already divided by the temperature, with those below the cut at −∞.
    pub(super) fn apply(&self, mut scores: Array) -> Result<Array> {
        let nothing = Array::from_f32(f32::NEG_INFINITY);
        if let Some(least) = self.least(&scores)? {
            scores = select(scores.ge(least)?, &scores, &nothing)?;
        }
        if let Some(typical_p) = self.typical_p {
            scores = select(typical(&scores, typical_p)?, &scores, &nothing)?;
        }
        Ok(scores)
    }

    /// The least score that is kept, `[1]`; `None` when all are.
    fn least(&self, scores: &Array) -> Result<Option<Array>> {
        let highest = match self.top_k {
            None => None,
            Some(k) => {
                let parted = partition_axis(scores, dim(self.width - k), -1)?;
                Some(slice(&parted, &[self.width - k], &[self.width])?) // [k], the least of them first
            }
        };
        let mut least = match &highest {
            None => None,
            Some(highest) => Some(highest.min(true)?),
        };
        if let Some(top_p) = self.top_p {
            // Every score of the nucleus is one of the k highest, so its least one is the higher cut.
            least = Some(nucleus(highest.as_ref().unwrap_or(scores), top_p)?);
        }
        if let Some(min_p_log) = self.min_p_log {
            let likely = scores.max(true)?.add(Array::from_f32(min_p_log))?;
            least = Some(match least {
                None => likely,
                Some(least) => mlx_rs::ops::maximum(least, likely)?,
            });
        }
        Ok(least)
    }
}

/// Which scores are of the fewest nearest to the entropy of their distribution that have the probability `typical_p`
/// (Meister et al., Locally Typical Sampling, 2022).
fn typical(scores: &Array, typical_p: f32) -> Result<Array> {
    let shares = softmax_axis(scores, -1, None)?;
    let surprise = scores.logsumexp(true)?.subtract(scores)?;
    let possible = shares.gt(Array::from_f32(0.0))?;
    let entropy = select(&possible, shares.multiply(&surprise)?, Array::from_f32(0.0))?.sum(true)?;
    let distance = select(&possible, surprise.subtract(entropy)?.abs()?, Array::from_f32(f32::INFINITY))?;
    let nearest = argsort_axis(&distance, -1)?;
    let before = cumsum(shares.take_axis(&nearest, -1)?, -1, false, false)?;
    let needed = before.lt(Array::from_f32(typical_p))?;
    let sorted = distance.take_axis(&nearest, -1)?;
    let farthest = select(needed, sorted, Array::from_f32(f32::NEG_INFINITY))?.max(true)?;
    Ok(distance.le(farthest)?.logical_and(possible)?)
}

/// The least score of the smallest set that has the probability `top_p` among `scores`.
fn nucleus(scores: &Array, top_p: f32) -> Result<Array> {
    let ascending = sort_axis(scores, -1)?;
    let probabilities = softmax_axis(&ascending, -1, None)?;
    // What everything above each token has together; the token is needed while that is not enough.
    let above = cumsum(probabilities, -1, true, false)?;
    let needed = above.lt(Array::from_f32(top_p))?;
    Ok(select(needed, ascending, Array::from_f32(f32::INFINITY))?.min(true)?)
}
