//! Several operations of ours as one of MLX's graph. Each operation costs MLX some microseconds of scheduling, and its CPU
//! backend lets the thread that submits sleep and wake whenever more than a few are waiting, on a core that the kernels
//! want. A whole pass of a model as one operation costs that once.
//!
//! What is computed does not change: the same kernels, called with the same memory layouts in the same order.

use std::ffi::{c_int, c_void};

use crate::mlx::{Array, MlxError, Result};

unsafe extern "C" {
    fn sanctum_fuse(arrays: *const *mut c_void, count: usize) -> c_int;
}

/// Replaces `arrays` by the same values, made by one operation instead of all of ours that they depend on.
pub(in crate::kernels) fn fuse<'a>(arrays: impl Iterator<Item = &'a mut Array>) -> Result<()> {
    let handles: Vec<*mut c_void> = arrays.map(|array| array.as_ptr().ctx).collect();
    // SAFETY: each handle is of a live array that is borrowed mutably here, so nobody reads it meanwhile.
    let outcome = unsafe { sanctum_fuse(handles.as_ptr(), handles.len()) };
    if outcome == 0 { Ok(()) } else { Err(MlxError::refused("kernels as one operation")) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kernels::cpu::{Span, Table, append, attend, rms_norm};
    use crate::kernels::{Coding, Heads};
    use crate::mlx::{eval, from_f32, to_f32_vec};

    const HEADS: Heads = Heads { queries: 4, keys: 2, width: 8 };
    const CAPACITY: usize = 64;

    fn ramp(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|at| (at as f32 * step).sin()).collect()
    }

    /// A norm, the cache's update, attention and a norm again over `count` tokens at `offset`: what they make, and the cache.
    fn pass(cache: &Array, offset: usize, count: usize) -> (Array, Array) {
        let row = (HEADS.queries + 2 * HEADS.keys) * HEADS.width;
        let x = from_f32(&ramp(count * row, 0.1 + offset as f32), &[1, count, row]);
        let projections = rms_norm(&x, &from_f32(&ramp(row, 0.3), &[row]), 1e-5).expect("fits");
        let half = HEADS.width / 2;
        let table =
            Arc::new(Table { cosines: ramp(count * half, 0.7), sines: ramp(count * half, 0.9), traditional: false });
        let span = Span { first: 0, count, offset, first_kept: 0, window: None };
        let cache = std::slice::from_ref(cache);
        let mut cache = append(cache, Coding::Plain, &projections, HEADS, (span, &table)).expect("fits");
        let mixed = attend(&projections, &[(&cache, Coding::Plain)], HEADS, (&[span], &table), 0.35).expect("fits");
        let cache = cache.remove(0);
        let width = HEADS.queries * HEADS.width;
        (rms_norm(&mixed, &from_f32(&ramp(width, 0.2), &[width]), 1e-5).expect("fits"), cache)
    }

    fn empty_cache(keys: usize) -> Array {
        let shape = [1, 2 * keys, CAPACITY, HEADS.width];
        from_f32(&vec![0.0; shape.iter().product()], &shape)
    }

    fn fused(cache: &Array, offset: usize, count: usize) -> (Array, Array) {
        let (mut mixed, mut cache) = pass(cache, offset, count);
        fuse([&mut mixed, &mut cache].into_iter()).expect("memory");
        (mixed, cache)
    }

    #[test]
    fn what_is_fused_has_the_bits_of_what_is_not() {
        let (mut alone, mut together) = (empty_cache(HEADS.keys), empty_cache(HEADS.keys));
        let mut offset = 0;
        for count in [5, 1, 1, 17] {
            let plain = pass(&alone, offset, count);
            let (mixed, cache) = fused(&together, offset, count);
            assert_eq!(to_f32_vec(&mixed).expect("runs"), to_f32_vec(&plain.0).expect("runs"));
            assert_eq!(to_f32_vec(&cache).expect("runs"), to_f32_vec(&plain.1).expect("runs"));
            (alone, together) = (plain.1, cache);
            offset += count;
        }
    }

    #[test]
    fn passes_that_follow_each_other_unevaluated_are_evaluated_in_their_order() {
        let (first, cache) = fused(&empty_cache(HEADS.keys), 0, 3);
        let (second, cache) = fused(&cache, 3, 1);
        eval([&second, &cache, &first]).expect("runs");
        let expected = pass(&pass(&empty_cache(HEADS.keys), 0, 3).1, 3, 1);
        assert_eq!(to_f32_vec(&second).expect("runs"), to_f32_vec(&expected.0).expect("runs"));
        assert_eq!(to_f32_vec(&cache).expect("runs"), to_f32_vec(&expected.1).expect("runs"));
    }

    #[test]
    fn a_cache_that_somebody_else_holds_keeps_what_it_has() {
        let (_, held) = fused(&empty_cache(HEADS.keys), 0, 3);
        let before = to_f32_vec(&held).expect("runs");
        let (_, cache) = fused(&held, 1, 2);
        assert_ne!(to_f32_vec(&cache).expect("runs"), before);
        assert_eq!(to_f32_vec(&held).expect("runs"), before);
    }

    #[test]
    fn a_cache_that_nobody_else_holds_is_updated_where_it_lies() {
        let (_, mut cache) = fused(&empty_cache(HEADS.keys), 0, 1);
        eval([&cache]).expect("runs");
        let place = to_pointer(&cache);
        for offset in 1..CAPACITY {
            let (mixed, next) = fused(&cache, offset, 1);
            cache = next;
            eval([&mixed, &cache]).expect("runs");
            assert_eq!(to_pointer(&cache), place, "after {offset} tokens");
        }
    }

    /// Where the elements of an evaluated array lie.
    fn to_pointer(array: &Array) -> usize {
        // SAFETY: the array is evaluated; the pointer is only compared.
        unsafe { mlx_sys::mlx_array_data_float32(array.as_ptr()) as usize }
    }
}
