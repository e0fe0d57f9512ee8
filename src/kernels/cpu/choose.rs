//! Sampling: one pass or two over a row's scores instead of MLX's dozen operations, and nothing sorted but what may be
//! drawn. Rows are independent and computed at the same time; a row is computed by one thread in one order.

use std::sync::Arc;

use crate::kernels::choose::{NOT_FINITE, Rule, height};
use crate::kernels::cpu::pool::pool;
use crate::kernels::cpu::primitive::{Kernel, Made, View, apply};
use crate::kernels::cpu::simd::{Portable, Simd, exp};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::x86::Avx2;
use crate::kernels::cpu::{Isa, Shared, isa, with_scratch};
use crate::mlx::{Array, MlxError, Result};

/// Scores that are looked at together: by their highest, or by their sum.
const CHUNK: usize = 64;
/// As many of the highest are found by insertion; more by selection.
const INSERTED_MAX: usize = 256;
/// Candidates that top-p looks at first, without top-k.
const NUCLEUS_FIRST: usize = 64;

/// Inputs: the scores `[…, R, V]`; then for each row what it has of bias, prompt and counts, `[V]` each.
struct Choose {
    rows: Vec<Row>,
    /// Of the output.
    height: usize,
    isa: Isa,
}

/// The numbers of a [`Rule`], and which arrays it has.
struct Row {
    allowed: Option<Arc<[u32]>>,
    biased: bool,
    repetition: Option<f32>,
    presence: f32,
    frequency: f32,
    counted: bool,
    temperature: f32,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p_log: Option<f32>,
    typical_p: Option<f32>,
    logprobs: Option<usize>,
    aim: f32,
}

/// See `kernels::choose`.
pub(in crate::kernels) fn choose(scores: &Array, rules: &[Rule<'_>]) -> Result<Array> {
    let width = scores.shape().last().map_or(0, |width| width.unsigned_abs() as usize);
    if rules.is_empty() || scores.size() != rules.len() * width {
        return Err(MlxError::refused(format!("{} rules for scores of shape {:?}", rules.len(), scores.shape())));
    }
    let mut inputs = vec![scores];
    let rows = rules.iter().map(|rule| {
        let parts = [rule.bias, rule.repetition.map(|(_, prompt)| prompt), rule.counts];
        inputs.extend(parts.into_iter().flatten());
        Row {
            allowed: rule.allowed.cloned(),
            biased: rule.bias.is_some(),
            repetition: rule.repetition.map(|(penalty, _)| penalty),
            presence: rule.presence,
            frequency: rule.frequency,
            counted: rule.counts.is_some(),
            temperature: rule.temperature,
            top_k: rule.top_k,
            top_p: rule.top_p,
            min_p_log: rule.min_p_log,
            typical_p: rule.typical_p,
            logprobs: rule.logprobs.map(|top| top.min(width)),
            aim: rule.aim,
        }
    });
    let height = height(rules);
    let kernel = Choose { rows: rows.collect(), height, isa: isa() };
    apply(kernel, &inputs, Made::Words, None, &[height, rules.len()])
}

impl Kernel for Choose {
    fn run(&self, inputs: &[View], output: &View) {
        let scores = inputs[0].elements::<f32>();
        let width = scores.len() / self.rows.len();
        let mut rest = inputs[1..].iter();
        let mut next = |wanted: bool| wanted.then(|| rest.next().expect("an input for each part").elements::<f32>());
        let parts: Vec<_> =
            self.rows.iter().map(|row| (next(row.biased), next(row.repetition.is_some()), next(row.counted))).collect();
        let out = Shared(output.pointer::<u32>());
        pool().run(self.rows.len(), &|index| {
            let (bias, prompt, counts) = &parts[index];
            let call = Call {
                row: &self.rows[index],
                logits: &scores[index * width..][..width],
                bias: bias.as_deref(),
                prompt: prompt.as_deref(),
                counts: counts.as_deref(),
            };
            // SAFETY: the instruction set was detected.
            let told = with_scratch(2 * width, |scratch| unsafe { call.tell(self.isa, scratch, self.height) });
            for (row, word) in told.into_iter().enumerate() {
                // SAFETY: this row's places.
                unsafe { out.slice(row * self.rows.len() + index, 1)[0] = word };
            }
        });
    }
}

/// One row's operands.
struct Call<'a> {
    row: &'a Row,
    logits: &'a [f32],
    bias: Option<&'a [f32]>,
    prompt: Option<&'a [f32]>,
    counts: Option<&'a [f32]>,
}

impl Call<'_> {
    unsafe fn tell(&self, isa: Isa, scratch: &mut [f32], height: usize) -> Vec<u32> {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2(call: &Call<'_>, scratch: &mut [f32], height: usize) -> Vec<u32> {
            unsafe { call.tell_with::<Avx2>(scratch, height) }
        }
        // SAFETY: the instruction set was detected; AVX-512 includes AVX2.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx2 => avx2(self, scratch, height),
                Isa::Portable => self.tell_with::<Portable>(scratch, height),
            }
        }
    }

    /// This row's column of the output; `scratch` has room for two numbers for each score.
    #[inline(always)]
    unsafe fn tell_with<S: Simd>(&self, scratch: &mut [f32], height: usize) -> Vec<u32> {
        let mut told = vec![0; height];
        // Every bit of the exponent set: infinite, or not a number.
        let infinite = f32::INFINITY.to_bits();
        if self.logits.iter().fold(false, |any, logit| any | (logit.to_bits() & infinite == infinite)) {
            told[1] = NOT_FINITE;
            return told;
        }
        let (scores, weights) = scratch.split_at_mut(self.logits.len());
        self.penalise(scores);
        let highest = scores.chunks(CHUNK).map(maximum).fold(f32::NEG_INFINITY, f32::max);
        let logprobs = self.row.logprobs.map(|top| {
            weights.iter_mut().zip(&*scores).for_each(|(weight, score)| *weight = score - highest);
            let relative = weights.to_vec();
            // SAFETY: the caller's; both have the same length.
            unsafe { exponentials::<S>(&relative, weights) };
            let total: f64 = weights.chunks(CHUNK).map(sum).sum();
            Logprobs { logarithm: total.ln() as f32, top: highest_places(&relative, top), relative }
        });
        let token = if self.row.temperature > 0.0 {
            scores.iter_mut().for_each(|score| *score = (*score - highest) / self.row.temperature);
            // SAFETY: the caller's; both have the same length.
            unsafe { self.draw::<S>(scores, weights) }
        } else {
            scores.iter().position(|score| *score == highest).unwrap_or_default()
        };
        told[..2].fill(token as u32);
        if let Some(logprobs) = logprobs {
            logprobs.tell(token, &mut told[2..]);
        }
        told
    }

    /// Scores after mask, bias and penalties.
    #[inline(always)]
    fn penalise(&self, scores: &mut [f32]) {
        scores.copy_from_slice(self.logits);
        if let Some(allowed) = &self.row.allowed {
            for (scores, word) in scores.chunks_mut(u32::BITS as usize).zip(allowed.iter()) {
                for (bit, score) in scores.iter_mut().enumerate() {
                    *score = if word >> bit & 1 == 1 { *score } else { f32::NEG_INFINITY };
                }
            }
        }
        if let Some(bias) = self.bias {
            scores.iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
        }
        let Some(counts) = self.counts else { return };
        if let (Some(penalty), Some(prompt)) = (self.row.repetition, self.prompt) {
            for ((score, count), prompt) in scores.iter_mut().zip(counts).zip(prompt) {
                let lowered = if *score > 0.0 { *score / penalty } else { *score * penalty };
                *score = if prompt + count > 0.0 { lowered } else { *score };
            }
        }
        for (score, count) in scores.iter_mut().zip(counts) {
            let present = if *count > 0.0 { self.row.presence } else { 0.0 };
            *score -= present + count * self.row.frequency;
        }
    }

    /// The token whose share of the probability holds the aim; scores are relative to the highest, which is 0.
    #[inline(always)]
    unsafe fn draw<S: Simd>(&self, scores: &[f32], weights: &mut [f32]) -> usize {
        let sums = |weights: &[f32]| -> Vec<f64> { weights.chunks(CHUNK).map(sum).collect() };
        // Without top-k the nucleus is measured against everything.
        let everything = |weights: &mut [f32]| {
            // SAFETY: the caller's.
            unsafe { exponentials::<S>(scores, weights) };
            sums(weights)
        };
        let least = match (self.row.top_k, self.row.top_p) {
            (None, None) => None,
            (Some(k), None) => highest_of(scores, k).last().copied(),
            (Some(k), Some(top_p)) => {
                let highest = highest_of(scores, k);
                let total = highest.iter().map(|score| weight(*score)).sum();
                Some(nucleus(&highest, f64::from(top_p), total).unwrap_or(highest[highest.len() - 1]))
            }
            (None, Some(top_p)) => {
                let total = everything(weights).iter().sum();
                let mut count = NUCLEUS_FIRST.min(scores.len());
                loop {
                    let highest = highest_of(scores, count);
                    match nucleus(&highest, f64::from(top_p), total) {
                        Some(least) => break Some(least),
                        None if count == scores.len() => break None,
                        None => count = (count * 16).min(scores.len()),
                    }
                }
            }
        };
        let least = match (least, self.row.min_p_log) {
            (Some(least), Some(log)) => Some(least.max(log)),
            (least, log) => least.or(log),
        };
        let Some(least) = least.or(self.row.typical_p.map(|_| f32::MIN)) else {
            let sums = everything(weights);
            return find(weights, &sums, self.row.aim);
        };
        let kept = scores.iter().enumerate().filter(|(_, score)| **score >= least);
        let mut kept: Vec<(usize, f64)> = kept.map(|(token, score)| (token, weight(*score))).collect();
        if let Some(typical_p) = self.row.typical_p {
            keep_typical(&mut kept, f64::from(typical_p));
        }
        let aim = f64::from(self.row.aim) * kept.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut before = 0.0;
        for (token, weight) in &kept {
            before += weight;
            if before > aim {
                return *token;
            }
        }
        kept.last().map_or(0, |(token, _)| *token)
    }
}

/// What is needed to tell log probabilities once the token is known.
struct Logprobs {
    /// Scores less the highest.
    relative: Vec<f32>,
    /// Of the sum of their exponentials.
    logarithm: f32,
    /// Places of the highest, the highest first.
    top: Vec<usize>,
}

impl Logprobs {
    /// Writes the token's, the ids of the highest and theirs, as [`crate::kernels::choose()`] lays them out.
    fn tell(&self, token: usize, told: &mut [u32]) {
        let bits = |place: usize| (self.relative[place] - self.logarithm).to_bits();
        let Some((chosen, rest)) = told.split_first_mut() else { return };
        *chosen = bits(token);
        let (ids, logprobs) = rest.split_at_mut(rest.len() / 2);
        for ((id, logprob), place) in ids.iter_mut().zip(logprobs).zip(&self.top) {
            *id = *place as u32;
            *logprob = bits(*place);
        }
    }
}

/// Keeps the fewest tokens nearest to the entropy of their distribution that reach the share `typical_p` together, and
/// what is as near as the last of them, in the order of their ids (Meister et al., Locally Typical Sampling, 2022).
fn keep_typical(kept: &mut Vec<(usize, f64)>, typical_p: f64) {
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let share = |weight: f64| weight / total;
    let surprise = |weight: f64| -share(weight).ln();
    let entropy: f64 = kept.iter().filter(|(_, weight)| *weight > 0.0).map(|(_, w)| share(*w) * surprise(*w)).sum();
    let distance = |weight: f64| (surprise(weight) - entropy).abs();
    let mut nearest: Vec<f64> = kept.iter().map(|(_, weight)| *weight).collect();
    nearest.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let mut before = 0.0;
    let farthest = nearest.iter().take_while(|weight| {
        let needed = before < typical_p;
        before += share(**weight);
        needed
    });
    let farthest = farthest.last().map_or(0.0, |weight| distance(*weight));
    kept.retain(|(_, weight)| distance(*weight) <= farthest);
}

fn weight(score: f32) -> f64 {
    f64::from(score).exp()
}

/// The highest of some scores; written so that it is computed in vectors.
#[inline(always)]
fn maximum(scores: &[f32]) -> f32 {
    scores.iter().fold(f32::NEG_INFINITY, |highest, score| if *score > highest { *score } else { highest })
}

#[inline(always)]
fn sum(weights: &[f32]) -> f64 {
    weights.iter().map(|weight| f64::from(*weight)).sum()
}

#[inline(always)]
unsafe fn exponentials<S: Simd>(scores: &[f32], weights: &mut [f32]) {
    let whole = scores.len() / S::LANES * S::LANES;
    for at in (0..whole).step_by(S::LANES) {
        // SAFETY: both have as many elements.
        unsafe { S::store(weights.as_mut_ptr().add(at), exp::<S>(S::load(scores.as_ptr().add(at)))) }
    }
    for (weight, score) in weights[whole..].iter_mut().zip(&scores[whole..]) {
        *weight = score.exp();
    }
}

/// The `count` highest scores, the highest first.
#[inline(always)]
fn highest_of(scores: &[f32], count: usize) -> Vec<f32> {
    if count > INSERTED_MAX {
        let mut all = scores.to_vec();
        if count < all.len() {
            all.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
            all.truncate(count);
        }
        all.sort_unstable_by(|a, b| b.total_cmp(a));
        return all;
    }
    let mut highest = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    for chunk in scores.chunks(CHUNK) {
        if highest.len() == count && maximum(chunk) <= least {
            continue;
        }
        for score in chunk {
            if highest.len() < count || *score > least {
                let place = highest.partition_point(|other| other >= score);
                highest.insert(place, *score);
                highest.truncate(count);
                least = highest[highest.len() - 1];
            }
        }
    }
    highest
}

/// The places of the `count` highest scores, the highest first, the first of equal ones first.
fn highest_places(scores: &[f32], count: usize) -> Vec<usize> {
    if count == 0 {
        return Vec::new();
    }
    let least = highest_of(scores, count).last().copied().unwrap_or(f32::NEG_INFINITY);
    let mut places: Vec<usize> = (0..scores.len()).filter(|place| scores[*place] >= least).collect();
    places.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    places.truncate(count);
    places
}

/// The least of the fewest scores that reach the share `top_p` of `total`; `None` if all of these do not.
fn nucleus(highest: &[f32], top_p: f64, total: f64) -> Option<f32> {
    let mut above = 0.0;
    for score in highest {
        above += weight(*score);
        if above >= top_p * total {
            return Some(*score);
        }
    }
    None
}

/// The place at which the sum of the weights passes `aim` times all of it; `sums` has those of the chunks.
fn find(weights: &[f32], sums: &[f64], aim: f32) -> usize {
    let aim = f64::from(aim) * sums.iter().sum::<f64>();
    let mut before = 0.0;
    let chunk = sums.iter().position(|sum| {
        before += sum;
        before > aim
    });
    let chunk = chunk.unwrap_or(sums.len() - 1);
    before = sums[..chunk].iter().sum();
    let first = chunk * CHUNK;
    let chunk = &weights[first..weights.len().min(first + CHUNK)];
    let place = chunk.iter().position(|weight| {
        before += f64::from(*weight);
        before > aim
    });
    // Rounding may leave the aim just beyond the last share; what cannot come has none.
    let last = || chunk.iter().rposition(|weight| *weight > f32::MIN_POSITIVE);
    first + place.or_else(last).unwrap_or_default()
}
