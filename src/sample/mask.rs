//! Which tokens may come at all: what a constraint allows, and no end before the answer is long enough. Masks are words of
//! 32 tokens, made and combined on the host.

use std::sync::Arc;

use crate::job::{Constraint, Mask, Sampling};
use crate::mlx::{Array, Result, from_f32};

/// The mask of one row's next token.
#[derive(Debug)]
pub(super) struct Allowed {
    constraint: Option<Box<dyn Constraint>>,
    /// All tokens but those that would end the answer, and for how many tokens they may not.
    open_ended: Option<(Mask, u64)>,
    /// Words of a mask.
    words: usize,
    /// Of the next token; `None` if all may come.
    mask: Option<Mask>,
    /// Why the row cannot go on.
    failure: Option<String>,
}

impl Allowed {
    pub(super) fn new(sampling: &Sampling, width: usize, constraint: Option<Box<dyn Constraint>>) -> Self {
        let words = width.div_ceil(u32::BITS as usize);
        let open_ended = (sampling.tokens_min > 0 && !sampling.ends.is_empty()).then(|| {
            let mut all = vec![u32::MAX; words];
            for end in &sampling.ends {
                all[(end / u32::BITS) as usize] &= !(1 << (end % u32::BITS));
            }
            (Mask::from(all), u64::from(sampling.tokens_min))
        });
        Self { constraint, open_ended, words, mask: None, failure: None }
    }

    /// Waits for the mask of the token at this position.
    pub(super) fn wait(&mut self, position: u64) {
        let of_constraint = match self.constraint.as_mut().map(|constraint| constraint.mask()) {
            None | Some(Ok(None)) => None,
            Some(Ok(Some(mask))) if mask.len() == self.words && mask.iter().any(|word| *word != 0) => Some(mask),
            Some(Ok(Some(mask))) => {
                self.fail(format!("a mask of {} words, of {}, allows no token", mask.len(), self.words));
                None
            }
            Some(Err(reason)) => {
                self.fail(reason);
                None
            }
        };
        self.mask = match (of_constraint, self.open_ended_at(position)) {
            (Some(mask), Some(open_ended)) => Some(both(mask, open_ended)),
            (mask, open_ended) => mask.or_else(|| open_ended.cloned()),
        };
    }

    /// Whether tokens restrict those that come after them.
    pub(super) fn follows_tokens(&self) -> bool {
        self.constraint.is_some()
    }

    /// The mask that was waited for.
    pub(super) fn mask(&self) -> Option<&Mask> {
        self.mask.as_ref()
    }

    /// The mask of a later position, of a row whose tokens do not restrict those that come after them.
    pub(super) fn mask_ahead(&self, position: u64) -> Option<&Mask> {
        assert!(!self.follows_tokens(), "what a constraint allows is not known ahead");
        self.open_ended_at(position)
    }

    fn open_ended_at(&self, position: u64) -> Option<&Mask> {
        self.open_ended.as_ref().filter(|(_, least)| position < *least).map(|(mask, _)| mask)
    }

    /// Scores `[V]` with what may not come at −∞.
    pub(super) fn apply(mask: Option<&Mask>, scores: Array) -> Result<Array> {
        let Some(mask) = mask else { return Ok(scores) };
        let width = scores.size() as u32;
        let allows = |token: u32| mask[(token / u32::BITS) as usize] >> (token % u32::BITS) & 1 == 1;
        let added: Vec<f32> = (0..width).map(|token| if allows(token) { 0.0 } else { f32::NEG_INFINITY }).collect();
        Ok(scores.add(from_f32(&added, &[width as usize]))?)
    }

    /// The row goes on with this token.
    pub(super) fn accept(&mut self, token: u32) {
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token);
        }
    }

    /// Why the row cannot go on.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
        self.constraint = None;
    }
}

/// What both allow; if that is nothing, what the constraint allows, because its text is over.
fn both(constraint: Mask, open_ended: &Mask) -> Mask {
    let both: Mask = constraint.iter().zip(open_ended.iter()).map(|(a, b)| a & b).collect::<Arc<[u32]>>();
    if both.iter().any(|word| *word != 0) { both } else { constraint }
}
