//! Attention by MLX's operations, for one sequence: what the GPU runs, and what the kernels of the CPU are compared with.

use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::{concatenate, quantized_matmul, select, softmax_axes};

use crate::kernels::Heads;
use crate::kernels::coding::Coding;
use crate::kernels::cpu::Span;
use crate::kernels::rope::Rope;
use crate::mlx::{Array, Result, dim, slice, slice_update};

/// Queries that see coded keys at once: MLX has no kernel for them that needs no scores of all queries with all keys.
const QUERIES: usize = 128;

/// The span's part of `kernels::attention`; its keys and values are written into the arrays of the cache.
pub(super) fn attention(
    projections: &Array,
    (heads, rope, scale): (Heads, &Rope, f32),
    span: Span,
    (arrays, coding): (&mut Vec<Array>, Coding),
) -> Result<Array> {
    let Heads { queries, keys, width } = heads;
    let total = queries + 2 * keys;
    let row = slice(projections, &[0, span.first, 0], &[1, span.first + span.count, total * width])?;
    let row = row.reshape(&[1, dim(span.count), dim(total), dim(width)])?;
    let row = row.transpose_axes(&[0, 2, 1, 3])?; // [1, H + 2K, L, D]
    let part = |array: &Array, from: usize, to: usize| slice(array, &[0, from, 0, 0], &[1, to, span.count, width]);
    let rotated = rope.rotate(&part(&row, 0, queries + keys)?, span.offset)?; // queries and keys at once
    let new_keys = coding.encode(part(&rotated, queries, queries + keys)?)?;
    let new_values = coding.encode(part(&row, queries + keys, total)?)?;
    let at = span.offset - span.first_kept;
    for (array, (new_keys, new_values)) in arrays.iter_mut().zip(new_keys.iter().zip(&new_values)) {
        let updated = slice_update(array, new_keys, &[0, 0, at, 0])?;
        *array = slice_update(&updated, new_values, &[0, keys, at, 0])?;
    }
    let (from, to) = (span.sees_from(span.offset).max(span.first_kept), span.end());
    let seen = |first: usize| {
        let one = |array: &Array| {
            let width = array.shape()[3].unsigned_abs() as usize;
            slice(array, &[0, first, from - span.first_kept, 0], &[1, first + keys, to - span.first_kept, width])
        };
        arrays.iter().map(one).collect::<Result<Vec<_>>>()
    };
    let (q, k, v) = (part(&rotated, 0, queries)?, seen(0)?, seen(keys)?);
    let mixed = match coding {
        Coding::Plain => {
            let mask = masks(span, from).then(|| mask(span, 0..span.count, from)).transpose()?;
            let mask = match &mask {
                Some(mask) => Some(ScaledDotProductAttentionMask::Array(mask)),
                None => (span.count > 1).then_some(ScaledDotProductAttentionMask::Causal),
            };
            scaled_dot_product_attention(&q, &k[0], &v[0], scale, mask, None)?
        }
        Coding::Affine { bits, group } => {
            let sizes = (dim(group), dim(bits.count()));
            let blocks = (0..span.count).step_by(QUERIES).map(|start| {
                let block = start..(start + QUERIES).min(span.count);
                let q = slice(&q, &[0, 0, block.start, 0], &[1, queries, block.end, width])?;
                let q = q.multiply(Array::from_f32(scale).as_dtype(q.dtype())?)?;
                let mask = (span.count > 1).then(|| mask(span, block, from)).transpose()?;
                coded(&q, (&k, &v), sizes, mask.as_ref())
            });
            concatenate(&blocks.collect::<Result<Vec<_>>>()?, 2)?
        }
    }; // [1, H, L, D]
    Ok(mixed.transpose_axes(&[0, 2, 1, 3])?.reshape(&[1, dim(span.count), dim(queries * width)])?)
}

/// Whether some query of the span does not see all keys from `from` up to itself.
fn masks(span: Span, from: usize) -> bool {
    span.sees_from(span.end() - 1) > from
}

/// Which keys from `from` on the span's queries of this range see, `[L, S]`.
fn mask(span: Span, queries: std::ops::Range<usize>, from: usize) -> Result<Array> {
    let positions = |from: usize, to: usize| Array::arange::<_, i32>(dim(from), dim(to), None);
    let q = positions(span.offset + queries.start, span.offset + queries.end)?.expand_dims(1)?; // [L, 1]
    let k = positions(from, span.end())?.expand_dims(0)?; // [1, S]
    let causal = k.le(&q)?;
    match span.window {
        Some(window) => Ok(causal.logical_and(q.lt(k.add(Array::from_int(dim(window)))?)?)?),
        None => Ok(causal),
    }
}

/// `softmax(q·kᵀ)·v` with integers for keys and values: `q` `[1, H, L, D]`, already scaled.
fn coded(
    q: &Array,
    (keys, values): (&[Array], &[Array]),
    (group, bits): (i32, i32),
    mask: Option<&Array>,
) -> Result<Array> {
    let &[_, heads, count, width] = q.shape() else { unreachable!("queries have four dimensions") };
    let key_heads = keys[0].shape()[1];
    let q = q.reshape(&[1, key_heads, heads / key_heads, count, width])?; // [1, K, H / K, L, D]
    let product = |x: &Array, of: &[Array], transposed: bool| {
        let of = of.iter().map(|array| array.expand_dims(2)).collect::<std::result::Result<Vec<_>, _>>()?;
        quantized_matmul(x, &of[0], &of[1], &of[2], transposed, group, bits)
    };
    let mut scores = product(&q, keys, true)?; // [1, K, H / K, L, S]
    if let Some(mask) = mask {
        let never = Array::from_f32(f32::NEG_INFINITY).as_dtype(scores.dtype())?;
        scores = select(mask, &scores, &never)?;
    }
    let mixed = product(&softmax_axes(&scores, &[-1], true)?, values, false)?;
    Ok(mixed.reshape(&[1, heads, count, width])?)
}
