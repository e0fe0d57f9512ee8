//! The choice of the next token from its scores, for several rows at once, each by its own rule.

use crate::kernels::cpu;
use crate::mlx::{Array, Device, Result, device};

/// How one row's token is chosen. The processors apply in the order of the fields: bias, penalties, temperature, cuts, draw.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
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
    /// What is drawn: the share of the probability that lies before the token, between 0 and 1.
    pub aim: f32,
}

/// What [`choose`] reports in place of a token when a row's scores were not finite.
pub const NOT_FINITE: u32 = u32::MAX;

/// `[…, R, V]` scores of R rows → `[2, R]` of `u32`: a token of each row, always below V, and what is to be reported of it:
/// the same, or [`NOT_FINITE`]. `None` where the device has no kernel for it.
///
/// # Errors
/// The shapes do not fit.
pub fn choose(scores: &Array, rules: &[Rule<'_>]) -> Result<Option<Array>> {
    match device() {
        Device::Cpu => cpu::choose(scores, rules).map(Some),
        Device::Gpu => Ok(None),
    }
}
