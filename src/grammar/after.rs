//! Thinking first, then an answer that follows a grammar: tokens are free until the text ends with the marker that closes
//! the thinking, and then another constraint takes over. A budget ends thinking that goes on too long. It refuses to know
//! grammars, and computes no more than a lookup a token.
//!
//! A model that may think or not says so with its first token: the one that opens a block of thinking, or any other, which
//! belongs to the answer.
//!
//! What stands between the marker and the answer: white space of up to [`GAP_BYTES_MAX`] bytes, in tokens of their own or
//! at the end of the marker's. A token of white space that the answer's grammar allows belongs to the answer. The marker
//! is found in bytes, wherever the tokens cut it.

use std::sync::Arc;

use crate::grammar::marker::{GAP_BYTES_MAX, Marker, Seen};
use crate::grammar::vocabulary::Vocabulary;
use crate::job::{Constraint, Mask, allows};

/// How long a row may think.
#[derive(Debug)]
pub struct ThinkingBudget {
    /// Tokens that are left to think; above zero while the row thinks.
    tokens: u32,
    /// What closes the thinking: each token, and the mask that allows no other.
    close: Vec<(u32, Mask)>,
}

impl ThinkingBudget {
    /// At most `tokens` tokens, without what closes the thinking; then the tokens of `close`, one by one, which are
    /// those of the marker, perhaps with words around it. There is at least one, and they are below the logit width.
    /// What opens the thinking is not counted.
    #[must_use]
    pub fn new(vocabulary: &Vocabulary, tokens: u32, close: &[u32]) -> Self {
        assert!(!close.is_empty(), "nothing would close the thinking");
        let alone = |&token: &u32| (token, vocabulary.mask_of(std::iter::once(token)));
        Self { tokens, close: close.iter().map(alone).collect() }
    }
}

/// With what a row begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// In the midst of thinking.
    Thinking,
    /// With this token it begins to think, with any other it answers.
    Either(u32),
}

/// Thinking, then an answer.
#[derive(Debug)]
pub struct After {
    marker: Arc<Marker>,
    budget: Option<ThinkingBudget>,
    /// What the answer must look like; anything, if nothing.
    inner: Option<Box<dyn Constraint>>,
    phase: Phase,
}

/// How far the row is.
#[derive(Debug)]
enum Phase {
    /// Nothing has come; this token opens thinking.
    Before { open: u32 },
    /// It thinks, and this many bytes of the marker are at the end of the text.
    Thinking { begun: usize },
    /// It thought for too long and is given this token of what closes the thinking.
    Closing { next: usize },
    /// The marker is complete, and the answer may begin; so may this many bytes of white space before it.
    Gap { left: usize },
    /// The answer has begun.
    Answer,
    /// It cannot go on.
    Failed(String),
}

impl After {
    /// An answer that `inner` restricts, or a free one; behind the marker if the row thinks, which the budget closes when
    /// it is spent. Without one, thinking is limited only by the row's own limits.
    #[must_use]
    pub fn new(
        marker: Arc<Marker>,
        beginning: Beginning,
        budget: Option<ThinkingBudget>,
        inner: Option<Box<dyn Constraint>>,
    ) -> Self {
        let mut row = Self { marker, budget, inner, phase: Phase::Answer };
        row.phase = match beginning {
            Beginning::Thinking => row.opened(),
            Beginning::Either(open) => Phase::Before { open },
        };
        row
    }

    /// Where a row is that begins to think.
    fn opened(&self) -> Phase {
        match &self.budget {
            Some(ThinkingBudget { tokens: 0, .. }) => Phase::Closing { next: 0 },
            Some(_) | None => Phase::Thinking { begun: 0 },
        }
    }

    /// Where a row is once the marker is complete and `used` bytes of white space followed.
    fn behind(&self, used: usize) -> Phase {
        if self.inner.is_some() { Phase::Gap { left: GAP_BYTES_MAX - used } } else { Phase::Answer }
    }

    fn think(&mut self, begun: usize, token: u32) -> Phase {
        if self.inner.is_some() && !allows(self.marker.thinking(begun), token) {
            return refused(token);
        }
        let spent = self.budget.as_mut().is_some_and(|budget| {
            budget.tokens -= 1;
            budget.tokens == 0
        });
        match self.marker.step(begun, token) {
            Seen::Complete(further) => self.behind(further.min(GAP_BYTES_MAX)),
            Seen::Begun(_) if spent => Phase::Closing { next: 0 },
            Seen::Begun(begun) => Phase::Thinking { begun },
        }
    }

    fn close(&self, next: usize, token: u32) -> Phase {
        let close = self.budget.as_ref().map_or(&[][..], |budget| &budget.close);
        match close.get(next) {
            Some(&(forced, _)) if forced != token => refused(token),
            Some(_) if next + 1 < close.len() => Phase::Closing { next: next + 1 },
            Some(_) | None => self.behind(0),
        }
    }

    /// The first token of the answer, or white space before it.
    fn begin(&mut self, left: usize, token: u32) -> Phase {
        let Some(inner) = &mut self.inner else { return Phase::Answer };
        match inner.mask() {
            Err(reason) => Phase::Failed(reason),
            Ok(mask) if mask.as_ref().is_none_or(|mask| allows(mask, token)) => {
                inner.accept(token);
                Phase::Answer
            }
            Ok(_) if allows(self.marker.gap(left), token) => Phase::Gap { left: left - self.marker.len_of(token) },
            Ok(_) => refused(token),
        }
    }
}

impl Constraint for After {
    fn accept(&mut self, token: u32) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Answer) {
            Phase::Before { open } if token == open => self.opened(),
            Phase::Thinking { begun } => self.think(begun, token),
            Phase::Closing { next } => self.close(next, token),
            Phase::Gap { left } => self.begin(left, token),
            Phase::Before { .. } | Phase::Answer => {
                if let Some(inner) = &mut self.inner {
                    inner.accept(token);
                }
                Phase::Answer
            }
            Phase::Failed(reason) => Phase::Failed(reason),
        };
    }

    fn mask(&mut self) -> Result<Option<Mask>, String> {
        let forced = |next: usize| self.budget.as_ref().and_then(|budget| budget.close.get(next));
        match &self.phase {
            Phase::Before { open } => {
                let open = *open;
                let inner = self.inner.as_mut().map_or(Ok(None), |inner| inner.mask())?;
                Ok(inner.map(|inner| with(&inner, open)))
            }
            Phase::Thinking { begun } => Ok(self.inner.is_some().then(|| Arc::clone(self.marker.thinking(*begun)))),
            Phase::Closing { next } => Ok(forced(*next).map(|(_, mask)| Arc::clone(mask))),
            Phase::Gap { left } => {
                let gap = Arc::clone(self.marker.gap(*left));
                let inner = self.inner.as_mut().map_or(Ok(None), |inner| inner.mask())?;
                Ok(inner.map(|inner| inner.iter().zip(gap.iter()).map(|(inner, gap)| inner | gap).collect()))
            }
            Phase::Answer => self.inner.as_mut().map_or(Ok(None), |inner| inner.mask()),
            Phase::Failed(reason) => Err(reason.clone()),
        }
    }
}

/// A mask that allows a token more.
fn with(mask: &Mask, token: u32) -> Mask {
    let bit = |at: usize| if at == token as usize / 32 { 1 << (token % 32) } else { 0 };
    mask.iter().enumerate().map(|(at, word)| word | bit(at)).collect()
}

fn refused(token: u32) -> Phase {
    Phase::Failed(format!("token {token} is not allowed here"))
}

#[cfg(test)]
mod tests;
