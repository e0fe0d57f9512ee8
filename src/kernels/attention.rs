//! Attention over grouped key/value heads: the rotation of queries and keys, the cache, and the mixture of values.

use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::concatenate;

use crate::kernels::cpu::{self, Span};
use crate::kernels::rope::{Angles, Rope};
use crate::mlx::{Array, Device, Dtype, Result, device, dim, slice, slice_update};

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

/// What a sequence remembers in one layer: an array `[1, 2K, capacity, D]`, the keys of K heads and then their values.
pub trait KeyValues {
    /// The array, given away, with room for `count` more tokens; and how many it holds.
    ///
    /// # Errors
    /// The memory was refused.
    fn take(&mut self, heads: Heads, dtype: Dtype, count: usize) -> Result<(Array, usize)>;

    /// The array again, with `count` more tokens in it.
    fn put(&mut self, array: Array, count: usize);
}

/// The tokens of a sequence that are new in this pass.
pub struct Sequence<'a> {
    /// What it remembers; the new tokens are appended.
    pub cache: &'a mut dyn KeyValues,
    /// New tokens; the sequences' follow each other in the pass.
    pub count: usize,
}

/// `softmax(q·kᵀ·scale)·v` of every token over its own sequence up to itself, from the projections of the pass
/// `[1, T, (H + 2K)·D]`, whose queries and keys are still to be rotated: `[1, T, H·D]`.
///
/// On the CPU device it is two operations of ours for one sequence, the cache updated in place. On the GPU it is MLX's.
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
        let (cache, offset) = sequence.cache.take(heads, projections.dtype(), sequence.count)?;
        spans.push(Span { first, count: sequence.count, offset });
        caches.push(cache);
        first += sequence.count;
    }
    let mixed = match (device(), &angles.table) {
        (Device::Cpu, Some(table)) => {
            for (cache, span) in caches.iter_mut().zip(&spans) {
                // The old handle must be gone when the new array is evaluated: that lets MLX update in place.
                *cache = cpu::append(cache, projections, heads, *span, table)?;
            }
            cpu::attend(projections, &caches, heads, &spans, table, scale)?
        }
        (Device::Cpu | Device::Gpu, _) => {
            let mut mixed = Vec::with_capacity(spans.len());
            for (cache, span) in caches.iter_mut().zip(&spans) {
                mixed.push(composed(projections, heads, rope, *span, cache, scale)?);
            }
            if mixed.len() == 1 { mixed.remove(0) } else { concatenate(&mixed, 1)? }
        }
    };
    for (sequence, cache) in sequences.iter_mut().zip(caches) {
        sequence.cache.put(cache, sequence.count);
    }
    Ok(mixed)
}

/// One span by MLX's operations.
fn composed(
    projections: &Array,
    heads: Heads,
    rope: &Rope,
    span: Span,
    cache: &mut Array,
    scale: f32,
) -> Result<Array> {
    let Heads { queries, keys, width } = heads;
    let (total, end) = (queries + 2 * keys, span.offset + span.count);
    let row = slice(projections, &[0, span.first, 0], &[1, span.first + span.count, total * width])?;
    let row = row.reshape(&[1, dim(span.count), dim(total), dim(width)])?;
    let row = row.transpose_axes(&[0, 2, 1, 3])?; // [1, H + 2K, L, D]
    let part = |array: &Array, from: usize, to: usize| slice(array, &[0, from, 0, 0], &[1, to, span.count, width]);
    let rotated = rope.rotate(&part(&row, 0, queries + keys)?, span.offset)?; // queries and keys at once
    let updated = slice_update(cache, &part(&rotated, queries, queries + keys)?, &[0, 0, span.offset, 0])?;
    *cache = slice_update(&updated, &part(&row, queries + keys, total)?, &[0, keys, span.offset, 0])?;
    let seen = |from: usize| slice(cache, &[0, from, 0, 0], &[1, from + keys, end, width]);
    let causal = (span.count > 1).then_some(ScaledDotProductAttentionMask::Causal);
    let (q, k, v) = (part(&rotated, 0, queries)?, seen(0)?, seen(keys)?);
    let mixed = scaled_dot_product_attention(&q, k, v, scale, causal, None)?; // [1, H, L, D]
    Ok(mixed.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, dim(span.count), dim(queries * width)])?)
}

#[cfg(test)]
mod tests;
