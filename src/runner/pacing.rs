//! How many prompt tokens go into a chunk while rows decode. Their next tokens wait for it, and what it takes depends on
//! what the warm-up could not know: how long the context has become, and what else the machine does. So each chunk sizes
//! the next one. It owns the rule and no clock, and refuses to know rows.

use std::time::Duration;

/// How long a chunk should take that rows wait for. A gap between two tokens is a chunk and a step; S7 allows 100 ms and a
/// step, and its slowest in a hundred takes twice as long as the usual one.
const TIME: Duration = Duration::from_millis(52);
/// Chunks are multiples of this, and never less: what our kernels take at once.
const TOKENS_STEP: u32 = 6;
/// Most by which one chunk makes the next one larger; smaller it makes it at once.
const GROWTH: f64 = 1.5;

/// The size of the next chunk beside rows that decode.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pacing {
    tokens: f64,
    tokens_max: u32,
}

impl Pacing {
    /// Begins with half of what the warm-up found to take its time for a chunk that nobody waits for.
    pub(super) fn new(tokens_max: u32) -> Self {
        Self { tokens: f64::from(tokens_max) / 2.0, tokens_max }
    }

    /// Tokens of the next chunk.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Bounded by tokens_max, a u32.
    pub(super) fn tokens(&self) -> u32 {
        let whole = self.tokens as u32 / TOKENS_STEP * TOKENS_STEP;
        whole.clamp(TOKENS_STEP.min(self.tokens_max), self.tokens_max)
    }

    /// A chunk of so many tokens took this long. The last few tokens of a prompt say nothing about larger chunks.
    pub(super) fn took(&mut self, tokens: u32, time: Duration) {
        if 2 * tokens < self.tokens() {
            return;
        }
        let fitting = f64::from(tokens) * TIME.as_secs_f64() / time.as_secs_f64().max(f64::EPSILON);
        self.tokens = fitting.min(self.tokens * GROWTH).clamp(f64::from(TOKENS_STEP), f64::from(self.tokens_max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_chunk_that_took_too_long_makes_the_next_one_smaller_at_once() {
        let mut pacing = Pacing::new(48);
        assert_eq!(pacing.tokens(), 24);
        pacing.took(24, 104 * MS);
        assert_eq!(pacing.tokens(), 12);
        pacing.took(12, 600 * MS);
        assert_eq!(pacing.tokens(), 6, "one pass of the kernels is the least");
    }

    #[test]
    fn fast_chunks_make_it_larger_step_by_step_up_to_the_largest() {
        let mut pacing = Pacing::new(96);
        let sizes: Vec<u32> = (0..5)
            .map(|_| {
                pacing.took(pacing.tokens(), MS);
                pacing.tokens()
            })
            .collect();
        assert_eq!(sizes, [72, 96, 96, 96, 96]);
    }

    #[test]
    fn the_size_settles_where_a_chunk_takes_its_time() {
        let mut pacing = Pacing::new(2048);
        // 5 ms, and 2 ms a token: 23 tokens take 51 ms.
        for _ in 0..20 {
            pacing.took(pacing.tokens(), MS * (5 + 2 * pacing.tokens()));
        }
        assert_eq!(pacing.tokens(), 18);
    }

    #[test]
    fn the_end_of_a_prompt_is_no_measure_and_a_small_model_context_is_a_bound() {
        let mut pacing = Pacing::new(48);
        pacing.took(3, 90 * MS);
        assert_eq!(pacing.tokens(), 24);
        assert_eq!(Pacing::new(4).tokens(), 4);
    }
}
