//! Keys and values of all positions in one buffer each, grown in place.
//!
//! The buffers are `[1, K, capacity, D]` with a capacity that is a multiple of [`GROWTH_TOKENS`], so that appending a token
//! is a `slice_update` which MLX does in place, and only every 256th token moves the buffer. Invariant: the first `tokens`
//! positions are valid, everything behind them is never read.

use mlx_rs::ops::{concatenate, zeros_dtype};

use crate::mlx::{Array, Result, dim, slice, slice_update};

/// Positions by which a buffer grows.
const GROWTH_TOKENS: usize = 256;
/// The axis of positions in `[1, K, S, D]`.
const TOKEN_AXIS: usize = 2;

/// The keys and values of one layer of one row.
#[derive(Debug, Default)]
pub struct KvCache {
    /// Keys and values, `[1, K, capacity, D]` each; `None` until the first token.
    buffers: Option<(Array, Array)>,
    /// Valid positions.
    tokens: usize,
}

impl KvCache {
    /// Valid positions.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Appends the keys and values `[1, K, L, D]` of new positions; returns those of all positions, `[1, K, S, D]`.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn append(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let end = self.tokens + length(keys);
        let (all_keys, all_values) = match self.buffers.take() {
            None => (grow(None, keys, end)?, grow(None, values, end)?),
            Some((k, v)) if length(&k) < end => (grow(Some(&k), keys, end)?, grow(Some(&v), values, end)?),
            Some(buffers) => buffers,
        };
        // The old handles die here, before anything is evaluated: that is what lets MLX update in place.
        let at = [0, 0, self.tokens, 0];
        let all_keys = slice_update(&all_keys, keys, &at)?;
        let all_values = slice_update(&all_values, values, &at)?;
        self.tokens = end;
        let valid = (first(&all_keys, end)?, first(&all_values, end)?);
        self.buffers = Some((all_keys, all_values));
        Ok(valid)
    }

    /// Forgets the last `tokens` positions.
    pub fn trim(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "only what was appended can be forgotten");
        self.tokens -= tokens;
    }

    /// The arrays to evaluate so that everything appended is there.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffers.iter().flat_map(|(keys, values)| [keys, values])
    }

    /// Bytes that the buffers take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arrays().map(|array| array.nbytes() as u64).sum()
    }
}

/// A zeroed buffer with room for `needed` positions of the shape of `like`, beginning with what `old` holds.
fn grow(old: Option<&Array>, like: &Array, needed: usize) -> Result<Array> {
    let held = old.map_or(0, length);
    let mut shape = like.shape().to_vec();
    shape[TOKEN_AXIS] = dim(needed.next_multiple_of(GROWTH_TOKENS) - held);
    let room = zeros_dtype(&shape, like.dtype())?;
    Ok(match old {
        None => room,
        Some(old) => concatenate(&[old, &room], dim(TOKEN_AXIS))?,
    })
}

/// Positions that a buffer has room for, or that new keys bring.
fn length(array: &Array) -> usize {
    array.shape()[TOKEN_AXIS].unsigned_abs() as usize
}

/// The first `tokens` positions; a view.
fn first(buffer: &Array, tokens: usize) -> Result<Array> {
    let mut stop: Vec<usize> = buffer.shape().iter().map(|size| size.unsigned_abs() as usize).collect();
    stop[TOKEN_AXIS] = tokens;
    slice(buffer, &vec![0; stop.len()], &stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{eval, from_f32, gauges, to_f32_vec};

    /// Keys of `count` positions from `start` on, each filled with its position.
    fn positions(start: usize, count: usize) -> Array {
        let values: Vec<f32> = (0..2).flat_map(|_| (start..start + count).flat_map(|at| [at as f32; 4])).collect();
        from_f32(&values, &[1, 2, count, 4])
    }

    fn check(cache: &KvCache, seen: &Array, tokens: usize) {
        assert_eq!(cache.tokens(), tokens);
        let expected = to_f32_vec(&positions(0, tokens)).expect("cpu");
        assert_eq!(to_f32_vec(seen).expect("cpu"), expected);
    }

    #[test]
    fn what_is_appended_is_read_across_growth() {
        let mut cache = KvCache::default();
        let mut tokens = 0;
        for count in [1, 5, 250, 1, 1, 600, 1] {
            let new = positions(tokens, count);
            let (keys, values) = cache.append(&new, &new).expect("fits");
            tokens += count;
            check(&cache, &keys, tokens);
            check(&cache, &values, tokens);
        }
    }

    #[test]
    fn what_is_trimmed_is_written_over() {
        let mut cache = KvCache::default();
        let new = positions(0, 9);
        cache.append(&new, &new).expect("fits");
        let wrong = positions(70, 3);
        cache.append(&wrong, &wrong).expect("fits");
        cache.trim(3);
        let new = positions(9, 2);
        let (keys, _) = cache.append(&new, &new).expect("fits");
        check(&cache, &keys, 11);
    }

    #[test]
    fn appending_within_the_capacity_allocates_no_second_buffer() {
        let mut cache = KvCache::default();
        let wide = |count: usize| from_f32(&vec![1.0; count * 256 * 64], &[1, 256, count, 64]);
        cache.append(&wide(1), &wide(1)).expect("fits");
        eval(cache.arrays()).expect("cpu");
        let before = gauges().expect("gauges").peak_bytes;
        for _ in 0..20 {
            cache.append(&wide(1), &wide(1)).expect("fits");
            eval(cache.arrays()).expect("cpu");
        }
        let grown = gauges().expect("gauges").peak_bytes.saturating_sub(before);
        assert!(grown < cache.bytes() / 4, "{grown} bytes more at the peak, for buffers of {} bytes", cache.bytes());
    }
}
