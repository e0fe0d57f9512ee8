//! Logit bias and penalties, with the token counts they need. Counts live on the device: a token that is not computed yet
//! is counted by a scatter, so penalties never wait for it.

use mlx_rs::ops::indexing::scatter_add_single;
use mlx_rs::ops::{multiply, select};

use crate::job::Sampling;
use crate::mlx::{Array, Result, from_f32};

/// Everything that changes logits before the temperature, in its order; neutral parts are `None`.
#[derive(Debug)]
pub(super) struct Penalties {
    /// Added, `[V]`.
    pub(super) bias: Option<Array>,
    /// The penalty, and 1 at each token of the prompt, `[V]`.
    pub(super) repetition: Option<(f32, Array)>,
    /// Subtracted once from what is in the output.
    pub(super) presence: Option<f32>,
    /// Subtracted per occurrence in the output.
    pub(super) frequency: Option<f32>,
    /// Occurrences in the output, `[V]`; kept when anything needs them.
    pub(super) counts: Option<Array>,
}

impl Penalties {
    pub(super) fn new(sampling: &Sampling, prompt: &[u32], width: usize) -> Self {
        let repetition = (sampling.repetition_penalty != 1.0).then(|| {
            let mut seen = vec![0.0; width];
            prompt.iter().for_each(|token| seen[*token as usize] = 1.0);
            (sampling.repetition_penalty, from_f32(&seen, &[width]))
        });
        let presence = (sampling.presence_penalty != 0.0).then_some(sampling.presence_penalty);
        let frequency = (sampling.frequency_penalty != 0.0).then_some(sampling.frequency_penalty);
        let counted = repetition.is_some() || presence.is_some() || frequency.is_some();
        let bias = (!sampling.logit_bias.is_empty()).then(|| {
            let mut bias = vec![0.0; width];
            sampling.logit_bias.iter().for_each(|(token, added)| bias[*token as usize] += added);
            from_f32(&bias, &[width])
        });
        let counts = counted.then(|| from_f32(&vec![0.0; width], &[width]));
        Self { bias, repetition, presence, frequency, counts }
    }

    /// Logits `[V]` after bias and penalties.
    pub(super) fn apply(&self, mut logits: Array) -> Result<Array> {
        if let Some(bias) = &self.bias {
            logits = logits.add(bias)?;
        }
        let Some(counts) = &self.counts else { return Ok(logits) };
        let zero = Array::from_f32(0.0);
        if let Some((penalty, prompt)) = &self.repetition {
            let penalty = Array::from_f32(*penalty);
            let lowered = select(logits.gt(&zero)?, logits.divide(&penalty)?, logits.multiply(&penalty)?)?;
            logits = select(prompt.add(counts)?.gt(&zero)?, lowered, logits)?;
        }
        if let Some(penalty) = self.presence {
            logits = logits.subtract(multiply(counts.gt(&zero)?, Array::from_f32(penalty))?)?;
        }
        if let Some(penalty) = self.frequency {
            logits = logits.subtract(counts.multiply(Array::from_f32(penalty))?)?;
        }
        Ok(logits)
    }

    /// Whether tokens change the logits of those that come after them.
    pub(super) fn follow_tokens(&self) -> bool {
        self.counts.is_some()
    }

    /// Counts a token `[1]` of the output, if anything needs to know.
    pub(super) fn count(&mut self, token: impl FnOnce() -> Result<Array>) -> Result<()> {
        if let Some(counts) = &self.counts {
            self.counts = Some(scatter_add_single(counts, token()?, from_f32(&[1.0], &[1, 1]), 0)?);
        }
        Ok(())
    }
}
