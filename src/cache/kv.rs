//! Keys and values of the positions that a layer may still see: all of them, or those of a window that moves on.
//!
//! The arrays are those of a [`Coding`], their third axis counts positions, and their capacity is a multiple of
//! [`GROWTH_TOKENS`]: attention writes new tokens into them in place, and only every 256th token moves them. A cache with a
//! window leaves behind what is out of sight when it moves. Invariant: the positions `first..tokens` are valid, what is
//! behind them is never read, and nothing before them is seen by a token from `tokens` on.
//!
//! What is out of sight cannot be seen by a shorter sequence either, so a cache with a window can be cut only where that is
//! still there: down to [`SPARE_TOKENS`] before its end for certain, and to a snapshot, for which it keeps the arrays that
//! it moves away from.

use mlx_rs::ops::{concatenate, zeros_dtype};

use crate::cache::State;
use crate::kernels::{Coding, Heads, KeyValues, Stored};
use crate::mlx::{Array, Dtype, Result, dim, eval, slice};

/// Positions by which a buffer grows, and is cut at its beginning.
pub const GROWTH_TOKENS: u32 = 256;
/// Positions out of sight that a move leaves: the next prompt of a conversation often leaves the last answer before its end.
const SPARE_TOKENS: usize = 256;
/// The axis of positions.
const TOKEN_AXIS: usize = 2;

/// The keys and values of one layer of one row.
///
/// A clone refers to the same arrays; whichever of the two appends first moves to a copy.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    coding: Coding,
    /// Positions that a token sees, itself included; `None`: all.
    window: Option<usize>,
    kept: Kept,
    /// Positions of the sequence.
    tokens: usize,
    /// Positions that the first arrays have room for.
    reserved: usize,
    /// Where the last snapshot was taken; 0 is none.
    snapshot: usize,
    /// What was there then, if `kept` has left it behind.
    left: Kept,
}

/// Arrays for the positions from `first` on.
#[derive(Debug, Clone, Default)]
struct Kept {
    /// Each `[1, 2K, capacity, …]`; empty until the first token, and while attention has them.
    arrays: Vec<Array>,
    /// A multiple of [`GROWTH_TOKENS`].
    first: usize,
}

impl Kept {
    /// Positions that there is room for.
    fn capacity(&self) -> usize {
        self.arrays.first().map_or(0, capacity)
    }

    fn bytes(&self) -> u64 {
        self.arrays.iter().map(|array| array.nbytes() as u64).sum()
    }

    /// Arrays of their own that begin like these, from the position `first` up to `end`, with room for so many. Lazy.
    fn moved(&self, first: usize, end: usize, positions: usize) -> Result<Self> {
        let one = |array: &Array| {
            let &[_, heads, _, width] = array.shape() else { unreachable!("arrays of a cache have four dimensions") };
            let size = |size: i32| size.unsigned_abs() as usize;
            let known = slice(array, &[0, 0, first - self.first, 0], &[1, size(heads), end - self.first, size(width)])?;
            let rest = dim(positions) - dim(end - first);
            Ok(concatenate(&[known, zeros_dtype(&[1, heads, rest, width], array.dtype())?], dim(TOKEN_AXIS))?)
        };
        Ok(Self { arrays: self.arrays.iter().map(one).collect::<Result<_>>()?, first })
    }
}

impl KvCache {
    /// An empty cache for tokens that see `window` positions, or all, coded like this, that takes `reserved` tokens before it
    /// moves, or as many as a window lets it keep.
    #[must_use]
    pub fn new(window: Option<usize>, coding: Coding, reserved: usize) -> Self {
        assert!(window != Some(0), "a token sees itself");
        Self { coding, window, reserved, ..Self::default() }
    }

    /// Sees to it that `count` more positions do not move the arrays while somebody refers to them. Moving one layer after
    /// the other, each evaluated before the next, never holds more than one layer twice.
    ///
    /// # Errors
    /// The memory was refused, or the device failed.
    pub fn make_room(&mut self, count: usize) -> Result<()> {
        if self.tokens > 0 && self.is_full_by(count) {
            self.relocate(count)?;
            eval(&self.kept.arrays)?;
        }
        Ok(())
    }

    /// Positions of the sequence.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets the last `tokens` positions: all, or some that the last pass appended.
    pub fn trim(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "only what was appended can be forgotten");
        self.tokens -= tokens;
        if self.tokens < self.snapshot {
            (self.snapshot, self.left) = (0, Kept::default());
        }
        if self.tokens == 0 && self.kept.first > 0 {
            self.kept = Kept::default();
        }
        assert!(self.has(&self.kept, self.tokens), "what is seen from there is kept");
    }

    /// The most positions that a row holds, when it holds fewer than its tokens, in a pass of at most `count` tokens: in
    /// its arrays, and in as many again for its snapshot.
    #[must_use]
    pub fn positions_max(&self, count: usize) -> Option<usize> {
        let window = self.window?;
        Some((window + SPARE_TOKENS + GROWTH_TOKENS as usize + count).next_multiple_of(GROWTH_TOKENS as usize))
    }

    /// The arrays to evaluate so that everything appended is there.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.kept.arrays.iter()
    }

    /// As `arrays`, to be replaced by equal ones.
    pub fn arrays_mut(&mut self) -> impl Iterator<Item = &mut Array> {
        self.kept.arrays.iter_mut()
    }

    /// Bytes that all arrays take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.kept.bytes() + self.left.bytes()
    }

    /// The first position that a token at `position` sees.
    fn sees_from(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Whether a sequence of so many tokens could go on from these arrays.
    fn has(&self, kept: &Kept, tokens: usize) -> bool {
        kept.first <= self.sees_from(tokens)
    }

    fn is_full_by(&self, count: usize) -> bool {
        self.tokens + count - self.kept.first > self.kept.capacity()
    }

    /// The size of arrays that hold the positions from `first` on and `count` new ones.
    fn positions(&self, first: usize, count: usize) -> usize {
        let reserved = match self.window {
            Some(window) => self.reserved.min(window + SPARE_TOKENS + GROWTH_TOKENS as usize),
            None => self.reserved,
        };
        (self.tokens + count - first).max(reserved).next_multiple_of(GROWTH_TOKENS as usize)
    }

    /// Moves to arrays with room for `count` more positions. Lazy.
    fn relocate(&mut self, count: usize) -> Result<()> {
        const STEP: usize = GROWTH_TOKENS as usize;
        let spared = self.sees_from(self.tokens).saturating_sub(SPARE_TOKENS) / STEP * STEP;
        let first = self.kept.first.max(spared);
        let moved = self.kept.moved(first, self.tokens, self.positions(first, count))?;
        let before = std::mem::replace(&mut self.kept, moved);
        if self.snapshot > 0 && self.has(&before, self.snapshot) && !self.has(&self.kept, self.snapshot) {
            self.left = before;
        }
        Ok(())
    }
}

impl State for KvCache {
    fn cut(&self, tokens: usize) -> usize {
        let tokens = tokens.min(self.tokens);
        if self.has(&self.kept, tokens) {
            return tokens;
        }
        let earlier = tokens.min(self.snapshot);
        if !self.left.arrays.is_empty() && self.has(&self.left, earlier) { earlier } else { 0 }
    }

    fn fork(&self, tokens: usize, room: usize) -> Result<Self> {
        assert!(self.cut(tokens) == tokens && tokens < room, "a fork is of what is there, and goes on");
        let mut fork = Self::new(self.window, self.coding, room);
        let kept = if self.has(&self.kept, tokens) { &self.kept } else { &self.left };
        if tokens > 0 {
            // It moves at once: what no token from here on sees stays behind.
            (fork.kept, fork.tokens) = (kept.clone(), tokens);
            fork.relocate(1)?;
        }
        Ok(fork)
    }

    fn snapshot(&mut self) {
        (self.snapshot, self.left) = (self.tokens, Kept::default());
    }
}

impl KeyValues for KvCache {
    fn take(&mut self, heads: Heads, dtype: Dtype, count: usize) -> Result<Stored> {
        match self.is_full_by(count) {
            true if self.tokens == 0 => self.kept.arrays = self.coding.empty(heads, dtype, self.positions(0, count))?,
            true => self.relocate(count)?,
            false => {}
        }
        let Self { coding, window, kept, tokens, .. } = self;
        let arrays = std::mem::take(&mut kept.arrays);
        Ok(Stored { arrays, coding: *coding, first: kept.first, tokens: *tokens, window: *window })
    }

    fn put(&mut self, arrays: Vec<Array>, count: usize) {
        self.tokens += count;
        assert!(self.kept.arrays.is_empty(), "what was taken comes back");
        self.kept.arrays = arrays;
        assert!(!self.is_full_by(0), "what comes back has room for what it got");
    }
}

/// Positions that an array has room for.
fn capacity(array: &Array) -> usize {
    array.shape()[TOKEN_AXIS].unsigned_abs() as usize
}

#[cfg(test)]
mod tests;
