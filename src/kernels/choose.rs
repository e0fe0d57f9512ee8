//! The choice of the next token from its scores, for several rows at once, each by its own rule.

use std::sync::Arc;

use crate::kernels::cpu;
use crate::mlx::{Array, Device, Result, device};

/// How one row's token is chosen. The processors apply in the order of the fields: mask, bias, penalties, temperature, cuts,
/// draw.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Bit `t % 32` of word `t / 32` is set if token t may come; there are as many words as the scores need. At least one
    /// token may.
    pub allowed: Option<&'a Arc<[u32]>>,
    /// Added to the scores, `[V]`.
    pub bias: Option<&'a Array>,
    /// Divides positive and multiplies negative scores of what has been seen; and 1 at each token of the prompt, `[V]`.
    pub repetition: Option<(f32, &'a Array)>,
    /// Subtracted once from what is in the output.
    pub presence: f32,
    /// Subtracted for each occurrence in the output.
    pub frequency: f32,
    /// Occurrences in the output, `[V]`; there if any of the penalties is.
    pub counts: Option<&'a Array>,
    /// 0: the highest score wins, the first of several; everything below is ignored.
    pub temperature: f32,
    /// Keep this many of the highest, and what equals the last of them.
    pub top_k: Option<usize>,
    /// Keep the fewest of the highest that reach this probability together.
    pub top_p: Option<f32>,
    /// Keep what is at least this times as likely as the highest, as a natural logarithm.
    pub min_p_log: Option<f32>,
    /// Of what is left, keep the fewest of those nearest to its entropy that reach this probability together.
    pub typical_p: Option<f32>,
    /// Tell log probabilities before the temperature: of the token chosen, and of so many of the highest.
    pub logprobs: Option<usize>,
    /// What is drawn: the share of the probability that lies before the token, between 0 and 1.
    pub aim: f32,
}

/// What [`choose`] reports in place of a token when a row's scores were not finite.
pub const NOT_FINITE: u32 = u32::MAX;

/// The rows of what [`choose`] makes, when the most log probabilities that any row wants are so many besides its own.
#[must_use]
pub fn height(rules: &[Rule<'_>]) -> usize {
    rules.iter().filter_map(|rule| rule.logprobs).max().map_or(2, |top| 3 + 2 * top)
}

/// `[…, R, V]` scores of R rows → `[H, R]` of `u32`. Row 0 is a token of each, always below V; row 1 what is to be reported
/// of it, the same or [`NOT_FINITE`]. If any wants log probabilities, row 2 has the token's, as the bits of a float, and with
/// K the most that are wanted, rows 3 to 3 + K the highest's ids, and the K after that theirs. What a row does not want,
/// and what is not to be had because its scores were not finite, means nothing. `None` where the device has no kernel for
/// it.
///
/// # Errors
/// The shapes do not fit.
pub fn choose(scores: &Array, rules: &[Rule<'_>]) -> Result<Option<Array>> {
    match device() {
        Device::Cpu => cpu::choose(scores, rules).map(Some),
        Device::Gpu => Ok(None),
    }
}
