//! Sampling against a plain oracle: the same order of processors in 64-bit arithmetic over a sorted list, written without
//! an array in sight.

use std::sync::Arc;

use proptest::prelude::*;

use crate::job::{Constraint, Mask, Sampling, Token};
use crate::kernels::NOT_FINITE;
use crate::mlx::{Array, from_f32, to_u32_vec};
use crate::sample::{Choice, Draws, Sampler, chance};

/// How close to a cut or a boundary two arithmetics may disagree.
const SLACK: f64 = 1e-5;

/// Allows the same tokens at every step.
#[derive(Debug)]
struct Only(Mask);

impl Constraint for Only {
    fn accept(&mut self, _: u32) {}

    fn mask(&mut self) -> Result<Option<Mask>, String> {
        Ok(Some(Arc::clone(&self.0)))
    }
}

fn allows(mask: Option<&Mask>, token: usize) -> bool {
    mask.is_none_or(|mask| mask[token / 32] >> (token % 32) & 1 == 1)
}

/// Scores after bias and penalties.
fn penalised(sampling: &Sampling, prompt: &[u32], output: &[u32], logits: &[f32]) -> Vec<f64> {
    let score = |(token, logit): (usize, &f32)| {
        let token = token as u32;
        let mut score = f64::from(*logit);
        score +=
            sampling.logit_bias.iter().filter(|(id, _)| *id == token).map(|(_, bias)| f64::from(*bias)).sum::<f64>();
        let times = output.iter().filter(|id| **id == token).count() as f64;
        if times > 0.0 || prompt.contains(&token) {
            let penalty = f64::from(sampling.repetition_penalty);
            score = if score > 0.0 { score / penalty } else { score * penalty };
        }
        score -= if times > 0.0 { f64::from(sampling.presence_penalty) } else { 0.0 };
        score - times * f64::from(sampling.frequency_penalty)
    };
    logits.iter().enumerate().map(score).collect()
}

/// The probability of each token, most likely first, after every cut. A positive `lenient` widens every cut, a negative one
/// narrows the nucleus: when both keep the same tokens, none is so near a cut that arithmetic decides.
fn distribution(sampling: &Sampling, scores: &[f64], lenient: f64) -> Vec<(u32, f64)> {
    let mut tokens: Vec<(u32, f64)> = scores
        .iter()
        .enumerate()
        .map(|(token, score)| (token as u32, score / f64::from(sampling.temperature)))
        .collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let highest = tokens[0].1;
    let wider = lenient.max(0.0);
    if sampling.top_k > 0 && (sampling.top_k as usize) < tokens.len() {
        let least = tokens[sampling.top_k as usize - 1].1;
        tokens.retain(|(_, score)| *score >= least - wider);
    }
    let total: f64 = tokens.iter().map(|(_, score)| (score - highest).exp()).sum();
    tokens.iter_mut().for_each(|(_, score)| *score = (*score - highest).exp() / total);
    if sampling.top_p < 1.0 {
        let (mut above, mut least) = (0.0, f64::INFINITY);
        for (_, share) in &tokens {
            if above == 0.0 || above < f64::from(sampling.top_p) + lenient {
                least = *share;
            }
            above += share;
        }
        tokens.retain(|(_, share)| *share >= least * (1.0 - wider));
    }
    let least = tokens[0].1 * f64::from(sampling.min_p) * (1.0 - wider);
    tokens.retain(|(_, share)| *share >= least);
    if sampling.typical_p < 1.0 {
        retain_typical(&mut tokens, f64::from(sampling.typical_p), lenient);
    }
    let total: f64 = tokens.iter().map(|(_, share)| share).sum();
    tokens.iter_mut().for_each(|(_, share)| *share /= total);
    tokens
}

/// What is nearest to the entropy; as lenient as `distribution`.
fn retain_typical(tokens: &mut Vec<(u32, f64)>, typical_p: f64, lenient: f64) {
    tokens.retain(|(_, share)| *share > 0.0);
    let total: f64 = tokens.iter().map(|(_, share)| share).sum();
    tokens.iter_mut().for_each(|(_, share)| *share /= total);
    let entropy: f64 = tokens.iter().map(|(_, share)| -share * share.ln()).sum();
    let distance = |share: f64| (-share.ln() - entropy).abs();
    let mut nearest: Vec<f64> = tokens.iter().map(|(_, share)| *share).collect();
    nearest.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
    let (mut before, mut farthest) = (0.0, 0.0);
    for share in nearest {
        if before == 0.0 || before < typical_p + lenient {
            farthest = distance(share);
        }
        before += share;
    }
    tokens.retain(|(_, share)| distance(*share) <= farthest + lenient.max(0.0));
}

/// One token of a row.
fn one(sampler: &mut Sampler) -> Draws<'_> {
    Draws { sampler, count: 1 }
}

fn next(sampler: &mut Sampler, logits: &[f32]) -> Option<u32> {
    let chosen = super::next(&mut [one(sampler)], &from_f32(logits, &[1, 1, logits.len()])).expect("runs");
    report(&chosen)
}

/// What MLX's operations would choose next.
fn composed(sampler: &mut Sampler, logits: &[f32]) -> Option<u32> {
    report(&super::composed(&[one(sampler)], &from_f32(logits, &[1, 1, logits.len()])).expect("runs"))
}

/// The report of a choice for one row.
fn report(chosen: &Array) -> Option<u32> {
    let words = to_u32_vec(chosen).expect("runs");
    assert!(words[1] == words[0] || words[1] == NOT_FINITE);
    (words[1] != NOT_FINITE).then_some(words[1])
}

/// Every token that the sampler chooses is one that the oracle could choose with the same random number, and its log
/// probability and those of the likeliest are the oracle's.
fn check(sampling: &Sampling, prompt: &[u32], mask: Option<&Mask>, steps: &[Vec<f32>]) -> Result<(), TestCaseError> {
    let constraint = mask.map(|mask| Box::new(Only(Arc::clone(mask))) as Box<dyn Constraint>);
    let mut sampler = Sampler::new(sampling, prompt, steps[0].len(), constraint);
    let mut output = Vec::new();
    for (position, logits) in steps.iter().enumerate() {
        let array = from_f32(logits, &[1, 1, logits.len()]);
        sampler.allowed.wait(position as u64);
        let by_mlx = super::composed(&[one(&mut sampler)], &array).expect("runs");
        let by_kernel = super::next(&mut [one(&mut sampler)], &array).expect("runs");
        let mut scores = penalised(sampling, prompt, &output, logits);
        for (token, score) in scores.iter_mut().enumerate() {
            let ends = position < sampling.tokens_min as usize && sampling.ends.contains(&(token as u32));
            *score = if allows(mask, token) && !ends { *score } else { f64::NEG_INFINITY };
        }
        for chosen in [&by_mlx, &by_kernel] {
            let [Choice::Token(token)] = &super::read(&[&sampler], chosen).expect("runs")[..] else {
                panic!("finite logits")
            };
            check_token(sampling, &scores, position, token.id)?;
            check_logprobs(sampling, &scores, token)?;
        }
        output.push(report(&by_kernel).expect("finite logits"));
    }
    Ok(())
}

fn check_logprobs(sampling: &Sampling, scores: &[f64], token: &Token) -> Result<(), TestCaseError> {
    let Some(logprobs) = &token.logprobs else {
        prop_assert_eq!(sampling.logprobs, None);
        return Ok(());
    };
    let highest = scores.iter().copied().fold(f64::MIN, f64::max);
    let logarithm = highest + scores.iter().map(|score| (score - highest).exp()).sum::<f64>().ln();
    let agrees = |id: u32, logprob: f32| {
        let expected = scores[id as usize] - logarithm;
        expected.is_infinite() && logprob.is_infinite() || (expected - f64::from(logprob)).abs() < 1e-4
    };
    prop_assert!(agrees(token.id, logprobs.chosen), "{} of {}", logprobs.chosen, token.id);
    prop_assert_eq!(Some(logprobs.top.len() as u32), sampling.logprobs);
    prop_assert!(logprobs.top.iter().all(|(id, logprob)| agrees(*id, *logprob)), "{:?}", logprobs.top);
    let mut sorted: Vec<f64> = scores.iter().map(|score| score - logarithm).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for ((_, logprob), expected) in logprobs.top.iter().zip(sorted) {
        let both_impossible = expected.is_infinite() && logprob.is_infinite();
        prop_assert!(both_impossible || (f64::from(*logprob) - expected).abs() < 1e-4, "{:?}", logprobs.top);
    }
    Ok(())
}

fn check_token(sampling: &Sampling, scores: &[f64], position: usize, token: u32) -> Result<(), TestCaseError> {
    if sampling.temperature == 0.0 {
        let highest = scores.iter().copied().fold(f64::MIN, f64::max);
        prop_assert!(scores[token as usize] >= highest - SLACK, "{token} scores below the highest");
    } else {
        let strict = distribution(sampling, scores, -SLACK);
        let lenient = distribution(sampling, scores, SLACK);
        prop_assert!(lenient.iter().any(|(id, _)| *id == token), "{token} was cut off");
        if strict.len() == lenient.len() {
            let aim = f64::from(chance::uniform(sampling.seed, position as u64));
            let mut by_id = lenient.clone();
            by_id.sort_by_key(|(id, _)| *id);
            let before: f64 = by_id.iter().filter(|(id, _)| *id < token).map(|(_, share)| share).sum();
            let share = by_id.iter().find(|(id, _)| *id == token).expect("it is there").1;
            prop_assert!((before - SLACK..=before + share + SLACK).contains(&aim), "{token} is not at {aim}");
        }
    }
    Ok(())
}

fn settings() -> impl Strategy<Value = Sampling> {
    let cuts = (
        prop_oneof![Just(0.0_f32), 0.2_f32..2.0],
        prop_oneof![Just(1.0_f32), 0.0_f32..1.0],
        prop_oneof![Just(0_u32), 1_u32..80],
        prop_oneof![Just(0.0_f32), 0.0_f32..=1.0],
        prop_oneof![Just(1.0_f32), 0.0_f32..1.0],
    );
    let told =
        (prop_oneof![Just(None), (0_u32..=20).prop_map(Some)], 0_u32..4, proptest::collection::vec(0_u32..60, 0..3));
    let penalties = (
        prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
        prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        prop_oneof![Just(0.0_f32), -2.0_f32..2.0],
        proptest::collection::vec((0_u32..60, -100.0_f32..100.0), 0..4),
    );
    (cuts, penalties, told, any::<u64>()).prop_map(|(cuts, penalties, told, seed)| {
        let (temperature, top_p, top_k, min_p, typical_p) = cuts;
        let (logprobs, tokens_min, ends) = told;
        let (repetition_penalty, presence_penalty, frequency_penalty, logit_bias) = penalties;
        Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            typical_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias,
            tokens_min,
            ends,
            seed,
            logprobs,
        }
    })
}

proptest! {
    #[test]
    fn every_token_is_one_that_the_oracle_could_choose(
        sampling in settings(),
        prompt in proptest::collection::vec(0_u32..60, 1..8),
        mask in prop_oneof![Just(None), (any::<u32>(), any::<u32>()).prop_map(|(low, high)| {
            // At least tokens 3 to 9 may come: more than any answer's ends are.
            Some(Mask::from([low | 0x3f8, high]))
        })],
        steps in proptest::collection::vec(proptest::collection::vec(-12.0_f32..12.0, 60), 1..6),
    ) {
        check(&sampling, &prompt, mask.as_ref(), &steps)?;
    }
}

/// Pearson's statistic of 4,000 draws against what the oracle expects, over tokens expected at least five times.
fn chi_square(sampling: &Sampling, logits: &[f32]) -> (f64, usize) {
    const DRAWS: usize = 4000;
    let mut seen = vec![0_u32; logits.len()];
    let mut sampler = Sampler::new(sampling, &[0], logits.len(), None);
    for _ in 0..DRAWS {
        seen[next(&mut sampler, logits).expect("finite") as usize] += 1;
    }
    let expected = distribution(sampling, &penalised(sampling, &[], &[], logits), 0.0);
    let allowed: u32 = expected.iter().map(|(token, _)| seen[*token as usize]).sum();
    assert_eq!(allowed as usize, DRAWS, "nothing that was cut off is drawn");
    let frequent = expected.iter().filter(|(_, share)| share * DRAWS as f64 >= 5.0);
    let terms = frequent.map(|(token, share)| {
        let expected = share * DRAWS as f64;
        (f64::from(seen[*token as usize]) - expected).powi(2) / expected
    });
    let terms: Vec<f64> = terms.collect();
    (terms.iter().sum(), terms.len())
}

#[test]
fn draws_follow_the_distribution_that_the_settings_ask_for() {
    let logits: Vec<f32> = (0..50).map(|i| ((i * 37 % 50) as f32) / 12.0).collect();
    let base = Sampling { temperature: 1.0, seed: 20_260_419, ..Sampling::greedy() };
    let cases = [
        base.clone(),
        Sampling { temperature: 0.6, ..base.clone() },
        Sampling { top_k: 9, ..base.clone() },
        Sampling { top_p: 0.7, ..base.clone() },
        Sampling { min_p: 0.2, ..base.clone() },
        Sampling { typical_p: 0.6, ..base.clone() },
        Sampling { temperature: 1.4, top_k: 30, top_p: 0.9, min_p: 0.05, ..base },
    ];
    for sampling in cases {
        let (statistic, terms) = chi_square(&sampling, &logits);
        // Mean terms − 1, variance twice that: five standard deviations, for a fixed seed.
        let degrees = terms as f64 - 1.0;
        assert!(statistic < degrees + 5.0 * (2.0 * degrees).sqrt(), "{statistic} over {terms} terms: {sampling:?}");
    }
}

#[test]
fn the_draw_at_a_position_depends_on_seed_position_and_logits_only() {
    let sampling = Sampling { temperature: 1.0, seed: 5, ..Sampling::greedy() };
    let (flat, steep) = (vec![0.5; 40], (0..40).map(|i| i as f32).collect::<Vec<_>>());
    let third = |first: &[f32], second: &[f32]| {
        let mut sampler = Sampler::new(&sampling, &[1, 2], 40, None);
        next(&mut sampler, first);
        next(&mut sampler, second);
        next(&mut sampler, &flat)
    };
    assert_eq!(third(&flat, &flat), third(&steep, &steep));
}

#[test]
fn logits_that_are_not_finite_fail_and_finite_ones_do_not() {
    for sampling in [Sampling::greedy(), Sampling { temperature: 1.0, top_p: 0.9, seed: 1, ..Sampling::greedy() }] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = vec![1.0; 33];
            logits[17] = bad;
            let mut sampler = Sampler::new(&sampling, &[1], 33, None);
            assert_eq!(composed(&mut sampler, &logits), None, "{bad}, by MLX's operations");
            assert_eq!(next(&mut sampler, &logits), None, "{bad}");
            assert!(next(&mut sampler, &[1.0; 33]).is_some());
        }
    }
}

#[test]
fn penalties_follow_tokens_that_are_chosen_but_not_yet_read() {
    let sampling = Sampling { presence_penalty: 2.0, ..Sampling::greedy() };
    let mut sampler = Sampler::new(&sampling, &[1], 4, None);
    let logits = from_f32(&[3.0, 2.5, 2.0, 1.5], &[1, 1, 4]);
    let choices: Vec<_> = (0..4).map(|_| super::next(&mut [one(&mut sampler)], &logits).expect("builds")).collect();
    let tokens: Vec<_> = choices.iter().map(report).collect();
    assert_eq!(tokens, [Some(0), Some(1), Some(2), Some(3)]);
}

#[test]
fn rows_beside_each_other_choose_what_each_chooses_alone() {
    let mut rules: Vec<Sampling> = (0..9)
        .map(|seed| Sampling { temperature: 0.7 + 0.1 * seed as f32, top_p: 0.9, seed, ..Sampling::greedy() })
        .collect();
    rules[2] = Sampling::greedy();
    rules[5] = Sampling { temperature: 1.0, top_k: 3, frequency_penalty: 1.5, seed: 5, ..Sampling::greedy() };
    rules[7].logit_bias = vec![(3, 4.0), (9, -2.0)];
    rules[8] = Sampling { temperature: 1.5, seed: 8, repetition_penalty: 1.3, ..Sampling::greedy() };
    let samplers = || rules.iter().map(|rule| Sampler::new(rule, &[1, 2, 3], 50, None)).collect::<Vec<_>>();
    let (mut alone, mut together) = (samplers(), samplers());
    for step in 0..6 {
        let rows: Vec<Vec<f32>> = (0..rules.len())
            .map(|row| (0..50).map(|at| ((step * 31 + row * 17 + at * at) as f32 * 0.37).sin() * 3.0).collect())
            .collect();
        let expected: Vec<_> = alone.iter_mut().zip(&rows).map(|(sampler, row)| next(sampler, row)).collect();
        let scores = from_f32(&rows.concat(), &[1, rules.len(), 50]);
        let chosen = super::next(&mut together.iter_mut().map(one).collect::<Vec<_>>(), &scores).expect("runs");
        let found: Vec<_> = to_u32_vec(&chosen).expect("runs")[rules.len()..].iter().copied().map(Some).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn several_tokens_of_a_row_at_once_are_those_of_as_many_steps() {
    let width = 50;
    let base = Sampling { temperature: 0.9, seed: 3, logprobs: Some(2), ..Sampling::greedy() };
    let rules = [
        Sampling::greedy(),
        Sampling { top_p: 0.8, logit_bias: vec![(4, 2.0)], ..base.clone() },
        Sampling { tokens_min: 3, ends: (0..30).collect(), ..base.clone() },
        Sampling { top_k: 5, typical_p: 0.9, ..base },
    ];
    let scores: Vec<Vec<f32>> =
        (0..6).map(|step| (0..width).map(|at| ((step * 31 + at * at) as f32 * 0.37).sin() * 3.0).collect()).collect();
    let array = |rows: &[Vec<f32>]| from_f32(&rows.concat(), &[1, rows.len(), width]);
    for rule in rules {
        let sampler = || Sampler::new(&rule, &[1, 2], width, None);
        let mut one_by_one = sampler();
        let expected: Vec<Choice> = scores
            .iter()
            .flat_map(|step| {
                let chosen =
                    super::next(&mut [one(&mut one_by_one)], &array(std::slice::from_ref(step))).expect("runs");
                super::read(&[&one_by_one], &chosen).expect("runs")
            })
            .collect();
        // Four at once, two of which are taken back; then the rest, beside another row.
        let (mut several, mut other) = (sampler(), sampler());
        let first = array(&scores[..4]);
        several.allowed.wait(0);
        let by_mlx = super::composed(&[Draws { sampler: &mut several, count: 4 }], &first).expect("runs");
        let by_kernel = super::next(&mut [Draws { sampler: &mut several, count: 4 }], &first).expect("runs");
        assert_eq!(to_u32_vec(&by_mlx).expect("runs")[..4], to_u32_vec(&by_kernel).expect("runs")[..4], "{rule:?}");
        assert_eq!(super::read(&[&several; 4], &by_kernel).expect("runs"), expected[..4], "{rule:?}");
        several.forget(2);
        let rest = array(&[&scores[..1], &scores[2..]].concat());
        let rows = &mut [one(&mut other), Draws { sampler: &mut several, count: 4 }];
        let chosen = super::next(rows, &rest).expect("runs");
        let choices = super::read(&[&other, &several, &several, &several, &several], &chosen).expect("runs");
        assert_eq!(choices[..1], expected[..1]);
        assert_eq!(choices[1..], expected[2..], "{rule:?}");
    }
}

#[test]
fn a_constraint_that_allows_nothing_fails_its_row_alone() {
    let mask: Mask = Arc::from([0_u32; 2]);
    let mut stuck = Sampler::new(&Sampling::greedy(), &[1], 40, Some(Box::new(Only(mask))));
    let mut free = Sampler::new(&Sampling::greedy(), &[1], 40, None);
    let scores: Vec<f32> = (0..80).map(|at| (at % 40) as f32).collect();
    let chosen = super::next(&mut [one(&mut stuck), one(&mut free)], &from_f32(&scores, &[1, 2, 40])).expect("runs");
    let choices = super::read(&[&stuck, &free], &chosen).expect("runs");
    assert!(matches!(&choices[0], Choice::Failed(reason) if reason.contains("allows no token")), "{choices:?}");
    assert_eq!(choices[1], Choice::Token(39.into()));
}
