//! Keys and values of all positions in one buffer, grown in place.
//!
//! The buffer is `[1, 2K, capacity, D]`, the keys of K heads and then their values, with a capacity that is a multiple of
//! [`GROWTH_TOKENS`]: attention writes new tokens into it in place, and only every 256th token moves it. Invariant: the
//! first `tokens` positions are valid, everything behind them is never read.

use mlx_rs::ops::{concatenate, zeros_dtype};

use crate::kernels::{Heads, KeyValues};
use crate::mlx::{Array, Dtype, Result, dim, eval, slice};

/// Positions by which a buffer grows.
pub const GROWTH_TOKENS: u32 = 256;
/// The axis of positions.
const TOKEN_AXIS: usize = 2;

/// The keys and values of one layer of one row.
///
/// A clone refers to the same buffer; whichever of the two appends first moves to a copy.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    /// `[1, 2K, capacity, D]`; `None` until the first token, and while attention has it.
    buffer: Option<Array>,
    /// Valid positions.
    tokens: usize,
    /// Positions that the first buffer has room for.
    reserved: usize,
}

impl KvCache {
    /// An empty cache that takes so many tokens before it moves.
    #[must_use]
    pub fn with_room(tokens: usize) -> Self {
        Self { reserved: tokens, ..Self::default() }
    }

    /// A cache of its own with the first `tokens` positions of this one, and room for `room` in all. Lazy.
    ///
    /// # Errors
    /// The memory was refused.
    pub fn fork(&self, tokens: usize, room: usize) -> Result<Self> {
        assert!(tokens <= self.tokens && tokens < room, "a fork is of what is there, and goes on");
        let mut fork = Self::with_room(room);
        if let Some(buffer) = self.buffer.as_ref().filter(|_| tokens > 0) {
            let &[_, heads, _, width] = buffer.shape() else { unreachable!("a buffer has four dimensions") };
            let known =
                slice(buffer, &[0; 4], &[1, heads.unsigned_abs() as usize, tokens, width.unsigned_abs() as usize])?;
            fork.buffer = Some(extended(&known, room)?);
            fork.tokens = tokens;
        }
        Ok(fork)
    }

    /// Sees to it that `count` more positions do not move the buffer while somebody refers to it. Moving one layer after the
    /// other, each evaluated before the next, never holds more than one layer twice.
    ///
    /// # Errors
    /// The memory was refused, or the device failed.
    pub fn make_room(&mut self, count: usize) -> Result<()> {
        let end = self.tokens + count;
        if let Some(buffer) = self.buffer.take_if(|buffer| capacity(buffer) < end) {
            let grown = extended(&buffer, end.max(self.reserved))?;
            drop(buffer);
            eval([&grown])?;
            self.buffer = Some(grown);
        }
        Ok(())
    }

    /// Valid positions.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Forgets the last `tokens` positions.
    pub fn trim(&mut self, tokens: usize) {
        assert!(tokens <= self.tokens, "only what was appended can be forgotten");
        self.tokens -= tokens;
    }

    /// The arrays to evaluate so that everything appended is there.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffer.iter()
    }

    /// As `arrays`, to be replaced by equal ones.
    pub fn arrays_mut(&mut self) -> impl Iterator<Item = &mut Array> {
        self.buffer.iter_mut()
    }

    /// Bytes that the buffer takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.arrays().map(|array| array.nbytes() as u64).sum()
    }
}

impl KeyValues for KvCache {
    fn take(&mut self, heads: Heads, dtype: Dtype, count: usize) -> Result<(Array, usize)> {
        let end = self.tokens + count;
        let held = self.buffer.as_ref().map_or(0, capacity);
        let buffer = self.buffer.take();
        if end <= held
            && let Some(buffer) = buffer
        {
            return Ok((buffer, self.tokens));
        }
        let grown = match buffer {
            Some(old) => extended(&old, end.max(self.reserved))?,
            None => {
                let positions = end.max(self.reserved).next_multiple_of(GROWTH_TOKENS as usize);
                zeros_dtype(&[1, dim(2 * heads.keys), dim(positions), dim(heads.width)], dtype)?.contiguous()?
            }
        };
        Ok((grown, self.tokens))
    }

    fn put(&mut self, array: Array, count: usize) {
        self.tokens += count;
        assert!(self.buffer.is_none() && capacity(&array) >= self.tokens, "what was taken comes back");
        self.buffer = Some(array);
    }
}

/// A buffer that begins like this one, with room for at least so many positions. Lazy.
fn extended(buffer: &Array, positions: usize) -> Result<Array> {
    let &[_, heads, held, width] = buffer.shape() else { unreachable!("a buffer has four dimensions") };
    let rest = dim(positions.next_multiple_of(GROWTH_TOKENS as usize)) - held;
    let rest = zeros_dtype(&[1, heads, rest, width], buffer.dtype())?;
    Ok(concatenate(&[buffer, &rest], dim(TOKEN_AXIS))?)
}

/// Positions that a buffer has room for.
fn capacity(array: &Array) -> usize {
    array.shape()[TOKEN_AXIS].unsigned_abs() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{from_f32, gauges, reset_peak, slice_update, to_f32_vec};

    const HEADS: Heads = Heads { queries: 2, keys: 2, width: 4 };
    /// Held while MLX's gauges are read: they are those of the process.
    static GAUGES: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

    /// Keys and values of `count` positions from `start` on, each filled with its position.
    fn positions(start: usize, count: usize) -> Array {
        let values: Vec<f32> = (0..4).flat_map(|_| (start..start + count).flat_map(|at| [at as f32; 4])).collect();
        from_f32(&values, &[1, 4, count, 4])
    }

    /// Appends as attention does.
    fn append(cache: &mut KvCache, heads: Heads, new: &Array) {
        let count = capacity(new);
        let (buffer, offset) = cache.take(heads, new.dtype(), count).expect("memory");
        let updated = slice_update(&buffer, new, &[0, 0, offset, 0]).expect("room");
        drop(buffer);
        cache.put(updated, count);
    }

    fn check(cache: &KvCache, tokens: usize) {
        assert_eq!(cache.tokens(), tokens);
        let buffer = cache.arrays().next().expect("it is not empty");
        let seen = slice(buffer, &[0; 4], &[1, 4, tokens, 4]).expect("fits");
        assert_eq!(to_f32_vec(&seen).expect("cpu"), to_f32_vec(&positions(0, tokens)).expect("cpu"));
    }

    #[test]
    fn what_is_appended_is_read_across_growth() {
        let mut cache = KvCache::default();
        let mut tokens = 0;
        for count in [1, 5, 250, 1, 1, 600, 1] {
            append(&mut cache, HEADS, &positions(tokens, count));
            tokens += count;
            check(&cache, tokens);
        }
    }

    #[test]
    fn making_room_moves_one_layer_at_a_time() {
        let _alone = GAUGES.lock();
        let heads = Heads { queries: 64, keys: 64, width: 64 };
        let wide = from_f32(&vec![1.0; 128 * 64 * 256], &[1, 128, 256, 64]);
        let mut caches: Vec<KvCache> = (0..8).map(|_| KvCache::default()).collect();
        caches.iter_mut().for_each(|cache| append(cache, heads, &wide));
        eval(caches.iter().flat_map(KvCache::arrays)).expect("cpu");
        reset_peak().expect("gauges");
        caches.iter_mut().for_each(|cache| cache.make_room(1).expect("memory"));
        let (bytes, layer) = (caches.iter().map(KvCache::bytes).sum::<u64>(), caches[0].bytes());
        let gauges = gauges().expect("gauges");
        // Other tests of this process have arrays too, but none of this size.
        assert!(gauges.peak_bytes <= gauges.active_bytes + 2 * layer, "{gauges:?}, {bytes} in {} layers", caches.len());
        append(&mut caches[0], heads, &wide);
        assert_eq!((caches[0].tokens(), caches[0].bytes()), (512, layer));
    }

    #[test]
    fn a_fork_goes_its_own_way() {
        let mut cache = KvCache::default();
        append(&mut cache, HEADS, &positions(0, 300));
        let mut fork = cache.fork(200, 700).expect("memory");
        append(&mut fork, HEADS, &positions(200, 500));
        check(&fork, 700);
        append(&mut cache, HEADS, &positions(300, 9));
        check(&cache, 309);
        assert_eq!(cache.fork(0, 5).expect("memory").tokens(), 0);
    }

    #[test]
    fn a_cache_with_room_does_not_move_before_it_is_full() {
        let mut cache = KvCache::with_room(600);
        append(&mut cache, HEADS, &positions(0, 1));
        let bytes = cache.bytes();
        append(&mut cache, HEADS, &positions(1, 700));
        assert_eq!(cache.bytes(), bytes);
        check(&cache, 701);
    }

    #[test]
    fn what_is_trimmed_is_written_over() {
        let mut cache = KvCache::default();
        append(&mut cache, HEADS, &positions(0, 9));
        append(&mut cache, HEADS, &positions(70, 3));
        cache.trim(3);
        append(&mut cache, HEADS, &positions(9, 2));
        check(&cache, 11);
    }

    #[test]
    fn appending_within_the_capacity_allocates_no_second_buffer() {
        let _alone = GAUGES.lock();
        let heads = Heads { queries: 256, keys: 256, width: 64 };
        let wide = from_f32(&vec![1.0; 512 * 64], &[1, 512, 1, 64]);
        let mut cache = KvCache::default();
        append(&mut cache, heads, &wide);
        eval(cache.arrays()).expect("cpu");
        let before = gauges().expect("gauges").peak_bytes;
        for _ in 0..20 {
            append(&mut cache, heads, &wide);
            eval(cache.arrays()).expect("cpu");
        }
        let grown = gauges().expect("gauges").peak_bytes.saturating_sub(before);
        assert!(grown < cache.bytes() / 4, "{grown} bytes more at the peak, for buffers of {} bytes", cache.bytes());
    }
}
