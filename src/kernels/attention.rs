//! Attention over grouped key/value heads: the rotation of queries and keys, the cache, and the mixture of values. It owns
//! what a cache hands out for the time of a pass; it refuses to know how a cache keeps it in between.

mod composed;

use mlx_rs::ops::concatenate;

use crate::kernels::coding::Coding;
use crate::kernels::cpu::{self, Span};
use crate::kernels::rope::{Angles, Rope};
use crate::mlx::{Array, Device, Dtype, Result, device};

/// Heads of the queries, the keys and the values, which lie beside each other in a token's row in that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of the queries; a multiple of `keys`.
    pub queries: usize,
    /// Heads of the keys, and of the values.
    pub keys: usize,
    /// Elements of a head.
    pub width: usize,
}

/// What a sequence remembers in one layer, while attention has it.
#[derive(Debug)]
pub struct Stored {
    /// Those of the coding, each `[1, 2K, capacity, …]`: the keys of K heads, and then their values.
    pub arrays: Vec<Array>,
    /// How they are coded.
    pub coding: Coding,
    /// The position of the first place; nothing before it is seen by any token from `tokens` on.
    pub first: usize,
    /// Positions of the sequence so far: the next token's.
    pub tokens: usize,
    /// Positions that a token sees, itself included; `None`: all.
    pub window: Option<usize>,
}

/// What a sequence remembers in one layer.
pub trait KeyValues {
    /// The arrays, given away, with room for `count` more tokens.
    ///
    /// # Errors
    /// The memory was refused.
    fn take(&mut self, heads: Heads, dtype: Dtype, count: usize) -> Result<Stored>;

    /// The arrays again, with `count` more tokens in them.
    fn put(&mut self, arrays: Vec<Array>, count: usize);
}

/// The tokens of a sequence that are new in this pass.
pub struct Sequence<'a> {
    /// What it remembers; the new tokens are appended.
    pub cache: &'a mut dyn KeyValues,
    /// New tokens; the sequences' follow each other in the pass.
    pub count: usize,
}

/// `softmax(q·kᵀ·scale)·v` of every token over what it sees of its own sequence up to itself, from the projections of the
/// pass `[1, T, (H + 2K)·D]`, whose queries and keys are still to be rotated: `[1, T, H·D]`. Keys and values are seen as
/// they are stored, those of the pass too, so that what a token gets does not depend on how its prompt was cut.
///
/// On the CPU device it is a few operations of ours, the caches updated in place. On the GPU it is MLX's.
///
/// # Errors
/// The shapes do not fit.
pub fn attention(
    projections: &Array,
    heads: Heads,
    (rope, angles): (&Rope, &Angles),
    sequences: &mut [Sequence<'_>],
) -> Result<Array> {
    let scale = (heads.width as f32).sqrt().recip();
    let mut spans = Vec::with_capacity(sequences.len());
    let mut caches = Vec::with_capacity(sequences.len());
    let mut first = 0;
    for sequence in sequences.iter_mut() {
        let count = sequence.count;
        let Stored { arrays, coding, first: first_kept, tokens, window } =
            sequence.cache.take(heads, projections.dtype(), count)?;
        spans.push(Span { first, count, offset: tokens, first_kept, window });
        caches.push((arrays, coding));
        first += count;
    }
    let mixed = match (device(), &angles.table) {
        (Device::Cpu, Some(table)) => {
            for ((arrays, coding), span) in caches.iter_mut().zip(&spans) {
                // The old handles must be gone when the new arrays are evaluated: that lets MLX update in place.
                *arrays = cpu::append(arrays, *coding, projections, heads, (*span, table))?;
            }
            let caches: Vec<cpu::Cache<'_>> =
                caches.iter().map(|(arrays, coding)| (arrays.as_slice(), *coding)).collect();
            cpu::attend(projections, &caches, heads, (&spans, table), scale)?
        }
        (Device::Cpu | Device::Gpu, _) => {
            let mut mixed = Vec::with_capacity(spans.len());
            for ((arrays, coding), span) in caches.iter_mut().zip(&spans) {
                mixed.push(composed::attention(projections, (heads, rope, scale), *span, (arrays, *coding))?);
            }
            if mixed.len() == 1 { mixed.remove(0) } else { concatenate(&mixed, 1)? }
        }
    };
    for (sequence, (arrays, _)) in sequences.iter_mut().zip(caches) {
        sequence.cache.put(arrays, sequence.count);
    }
    Ok(mixed)
}

#[cfg(test)]
mod tests;
