//! Scaled dot-product attention over grouped key/value heads.

use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::softmax_axis;

use crate::mlx::{Array, Device, Result, device, dim, from_f32};

/// What each query may see: itself and everything before it. Shared by the layers of one forward pass.
#[derive(Debug)]
pub struct Mask {
    /// Queries in this pass.
    queries: usize,
    /// On the CPU, with more than one query: 0 or −∞, `[L, S]`.
    additive: Option<Array>,
}

impl Mask {
    /// The mask of `queries` consecutive positions that follow `offset` cached ones.
    #[must_use]
    pub fn causal(offset: usize, queries: usize) -> Self {
        let additive = (device() == Device::Cpu && queries > 1).then(|| Self::additive(offset, queries));
        Self { queries, additive }
    }

    fn additive(offset: usize, queries: usize) -> Array {
        let keys = offset + queries;
        let mut values = vec![0.0; queries * keys];
        for (query, row) in values.chunks_exact_mut(keys).enumerate() {
            row[offset + query + 1..].fill(f32::NEG_INFINITY);
        }
        from_f32(&values, &[queries, keys])
    }
}

/// `softmax(q·kᵀ·scale + mask)·v`: q `[B, H, L, D]`, k and v `[B, K, S, D]` with K dividing H → `[B, H, L, D]`.
///
/// On the CPU device the heads of a group are rows of one product, so keys and values are neither repeated nor copied:
/// for one query four operations instead of the fallback's eight or so.
///
/// # Errors
/// The shapes do not fit.
pub fn attention(q: &Array, k: &Array, v: &Array, scale: f32, mask: &Mask) -> Result<Array> {
    match device() {
        Device::Gpu => fast(q, k, v, scale, mask),
        Device::Cpu => composed(q, k, v, scale, mask),
    }
}

fn fast(q: &Array, k: &Array, v: &Array, scale: f32, mask: &Mask) -> Result<Array> {
    let causal = (mask.queries > 1).then_some(ScaledDotProductAttentionMask::Causal);
    Ok(scaled_dot_product_attention(q, k, v, scale, causal, None)?)
}

fn composed(q: &Array, k: &Array, v: &Array, scale: f32, mask: &Mask) -> Result<Array> {
    let &[batch, heads, queries, width] = q.shape() else { unreachable!("queries are [B, H, L, D]") };
    let &[_, groups, keys, _] = k.shape() else { unreachable!("keys are [B, K, S, D]") };
    let members = heads / groups;
    let rows = q.multiply(Array::from_f32(scale))?.reshape(&[batch, groups, members * queries, width])?; // [B, K, R·L, D]
    let mut scores = rows.matmul(k.swap_axes(2, 3)?)?; // [B, K, R·L, S]
    if let Some(additive) = &mask.additive {
        assert_eq!(additive.shape(), [dim(mask.queries), keys], "the mask belongs to this pass");
        let shape = [batch, groups, members * queries, keys];
        scores = scores.reshape(&[batch, groups, members, queries, keys])?.add(additive)?.reshape(&shape)?;
    }
    let output = softmax_axis(scores, -1, None)?.matmul(v)?; // [B, K, R·L, D]
    Ok(output.reshape(&[batch, heads, queries, width])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::to_f32_vec;

    fn values(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step % 97) as f32 - 48.0) / 30.0).collect()
    }

    fn check(offset: usize, queries: usize) {
        let keys = offset + queries;
        let q = from_f32(&values(6 * queries * 8, 31), &[1, 6, queries, 8]);
        let k = from_f32(&values(2 * keys * 8, 17), &[1, 2, keys, 8]);
        let v = from_f32(&values(2 * keys * 8, 53), &[1, 2, keys, 8]);
        let additive = (queries > 1).then(|| Mask::additive(offset, queries));
        let mask = Mask { queries, additive };
        let composed = to_f32_vec(&composed(&q, &k, &v, 0.35, &mask).expect("fits")).expect("cpu");
        let fast = to_f32_vec(&fast(&q, &k, &v, 0.35, &mask).expect("fits")).expect("cpu");
        for (a, b) in composed.iter().zip(&fast) {
            assert!((a - b).abs() < 1e-5, "offset {offset}, {queries} queries: {a} and {b}");
        }
    }

    #[test]
    fn the_composition_equals_the_fast_operation() {
        for (offset, queries) in [(0, 1), (9, 1), (0, 5), (11, 4)] {
            check(offset, queries);
        }
    }
}
