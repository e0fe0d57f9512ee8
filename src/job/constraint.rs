//! What restricts the tokens of a row while it is generated. The engine asks and obeys; it does not know whether a JSON
//! schema, a regular expression or a budget of thinking stands behind it.
//!
//! Invariant: the inference thread calls this and must not compute for it. The order of calls is `mask`, then `accept` of
//! the token chosen, then `mask` again; while the device computes the next logits, whoever implements this computes the
//! next mask elsewhere.

use std::fmt;
use std::sync::Arc;

/// Which tokens may come next: bit `t % 32` of word `t / 32` stands for token `t`, and a set bit allows it. It has a word
/// for each 32 tokens of the logit width, the last one rounded up. Equal masks in a row are the same `Arc`, so that a
/// pointer tells whether the device's copy is still good.
pub type Mask = Arc<[u32]>;

/// What restricts the tokens of one row, step by step.
pub trait Constraint: Send + fmt::Debug {
    /// The row goes on with this token. Hands over and returns.
    fn accept(&mut self, token: u32);

    /// Which tokens may come next; `None` when any may. Waits for what is still being computed, which has a bound. Once
    /// the answer is complete only the tokens that end it are left.
    ///
    /// # Errors
    /// When this row cannot go on, for the reason told; other rows are not touched. It stays failed.
    fn mask(&mut self) -> Result<Option<Mask>, String>;
}

/// Whether `mask` allows `token`. A token beyond the mask is not allowed.
#[must_use]
pub fn allows(mask: &[u32], token: u32) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_one_bit_of_one_word() {
        let mask = [0, 1 << 5];
        let allowed: Vec<u32> = (0..100).filter(|&token| allows(&mask, token)).collect();
        assert_eq!(allowed, [37]);
    }
}
