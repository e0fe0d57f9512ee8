//! The frequency factors that GGUF stores for models with `llama3` rope scaling. The format keeps only the result
//! (`rope_freqs.weight`, one divisor for each pair of a head); what made it is recovered by computing it again, so that
//! the config says what a Hugging Face folder would have said. Factors of any other origin are refused by name.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use crate::model::weights::error::Flaw;

/// As GGUF names it.
pub(super) const NAME: &str = "rope_freqs.weight";

/// What every Llama 3.1, 3.2 and 3.3 was made with; only the factor differs.
const LOW_FREQUENCY_FACTOR: f64 = 1.0;
const HIGH_FREQUENCY_FACTOR: f64 = 4.0;
const ORIGINAL_CONTEXT: f64 = 8192.0;
/// The factors went through single precision.
const TOLERANCE: f64 = 1e-3;

/// The `rope_scaling` that made these factors; `None` when they scale nothing.
pub(super) fn scaling(factors: &[f32], theta: f64) -> Result<Option<Value>, Flaw> {
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(None);
    }
    let factor = factors.iter().copied().fold(1.0_f32, f32::max).round();
    let agrees = |(index, found): (usize, &f32)| {
        let expected = llama3_factor(f64::from(factor), theta, index, factors.len());
        (expected - f64::from(*found)).abs() <= TOLERANCE * expected
    };
    if !factor.is_finite() || !factors.iter().enumerate().all(agrees) {
        let supported = "the llama3 scaling of Llama 3.1 to 3.3";
        return Err(Flaw::unsupported(format_args!("tensor {NAME:?}"), "another set of frequency factors", supported));
    }
    Ok(Some(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQUENCY_FACTOR,
        "high_freq_factor": HIGH_FREQUENCY_FACTOR,
        "original_max_position_embeddings": ORIGINAL_CONTEXT as u32,
    })))
}

/// The divisor of one pair's frequency: 1 for short waves, `factor` for long ones, smooth between.
fn llama3_factor(factor: f64, theta: f64, index: usize, pairs: usize) -> f64 {
    let wavelength = TAU * theta.powf(index as f64 / pairs as f64);
    if wavelength < ORIGINAL_CONTEXT / HIGH_FREQUENCY_FACTOR {
        return 1.0;
    }
    if wavelength > ORIGINAL_CONTEXT / LOW_FREQUENCY_FACTOR {
        return factor;
    }
    let range = HIGH_FREQUENCY_FACTOR - LOW_FREQUENCY_FACTOR;
    let smooth = (ORIGINAL_CONTEXT / wavelength - LOW_FREQUENCY_FACTOR) / range;
    1.0 / ((1.0 - smooth) / factor + smooth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama3_factors(factor: f64) -> Vec<f32> {
        (0..64).map(|index| llama3_factor(factor, 500_000.0, index, 64) as f32).collect()
    }

    #[test]
    fn the_factor_of_a_llama3_scaling_is_recovered_from_its_frequencies() {
        for factor in [8.0, 32.0] {
            let found = scaling(&llama3_factors(factor), 500_000.0).expect("supported").expect("scales");
            assert_eq!(found["rope_type"], "llama3");
            assert_eq!(found["factor"], factor);
        }
    }

    #[test]
    fn factors_of_one_scale_nothing() {
        assert_eq!(scaling(&[1.0; 32], 10_000.0), Ok(None));
    }

    #[test]
    fn factors_of_another_origin_are_refused_by_the_name_of_the_tensor() {
        let mut factors = llama3_factors(8.0);
        factors[20] *= 1.01;
        for factors in [factors, vec![f32::NAN; 64], vec![f32::INFINITY; 64]] {
            let refusal = scaling(&factors, 500_000.0).expect_err("not llama3").to_string();
            assert!(refusal.contains(NAME), "{refusal}");
        }
    }
}
