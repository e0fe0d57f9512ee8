//! What is computed along one row of activations: the norm, the sums of groups, the scaling that the product wants, and the
//! gate of the feed-forward block. Sums run over eight lanes, element i in lane i mod 8, whatever the instruction set.

use crate::kernels::cpu::simd::{Eight, Simd, exp};

/// The elements at `from`, of which at least `left` exist: eight, or as many as there are and zeros.
#[inline(always)]
pub(super) unsafe fn load_up_to<S: Eight>(from: *const f32, left: usize) -> S::F {
    if left >= S::LANES {
        // SAFETY: the caller's.
        return unsafe { S::load(from) };
    }
    let mut buffer = [0.0; 8];
    // SAFETY: as many elements as there are.
    unsafe {
        std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), left);
        S::load(buffer.as_ptr())
    }
}

/// Writes as many elements as there is room for, at most eight.
#[inline(always)]
pub(super) unsafe fn store_up_to<S: Eight>(to: *mut f32, left: usize, value: S::F) {
    // SAFETY: the caller's; the buffer holds eight.
    unsafe {
        if left >= S::LANES {
            return S::store(to, value);
        }
        let mut buffer = [0.0; 8];
        S::store(buffer.as_mut_ptr(), value);
        std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, left);
    }
}

/// `out = x / sqrt(mean(x²) + eps) · weight`.
#[inline(always)]
pub(super) unsafe fn rms_norm<S: Eight>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = x.len();
    assert!(weight.len() == width && out.len() == width, "a norm has a weight for each element");
    // SAFETY: all three have `width` elements.
    unsafe {
        let mut squares = S::splat(0.0);
        for at in (0..width).step_by(S::LANES) {
            let x = load_up_to::<S>(x.as_ptr().add(at), width - at);
            squares = S::fma(x, x, squares);
        }
        let factor = S::splat(1.0 / (S::sum(squares) / width as f32 + eps).sqrt());
        for at in (0..width).step_by(S::LANES) {
            let x = load_up_to::<S>(x.as_ptr().add(at), width - at);
            let weight = load_up_to::<S>(weight.as_ptr().add(at), width - at);
            store_up_to::<S>(out.as_mut_ptr().add(at), width - at, S::mul(S::mul(x, factor), weight));
        }
    }
}

/// `x[i] = x[i] · factors[i mod 8]`.
#[inline(always)]
pub(super) unsafe fn scale<S: Eight>(x: &mut [f32], factors: &[f32; 8]) {
    let width = x.len();
    // SAFETY: the row has `width` elements, the factors eight.
    unsafe {
        let factors = S::load(factors.as_ptr());
        for at in (0..width).step_by(S::LANES) {
            let place = x.as_mut_ptr().add(at);
            store_up_to::<S>(place, width - at, S::mul(load_up_to::<S>(place, width - at), factors));
        }
    }
}

/// The sum of each group of elements.
#[inline(always)]
pub(super) unsafe fn group_sums<S: Eight>(x: &[f32], group: usize, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(group)) {
        // SAFETY: groups are multiples of 32 elements.
        unsafe {
            let mut sum = S::splat(0.0);
            for at in (0..group).step_by(S::LANES) {
                sum = S::add(sum, S::load(x.as_ptr().add(at)));
            }
            *out = S::sum(sum);
        }
    }
}

/// `gate = silu(gate) · up`, for as many elements as whole vectors have.
#[inline(always)]
pub(super) unsafe fn gated<S: Simd>(gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len() && gate.len().is_multiple_of(S::LANES), "whole vectors");
    for at in (0..gate.len()).step_by(S::LANES) {
        // SAFETY: both have as many elements.
        unsafe {
            let (g, u) = (S::load(gate.as_ptr().add(at)), S::load(up.as_ptr().add(at)));
            let one = S::splat(1.0);
            let denominator = S::add(one, exp::<S>(S::mul(g, S::splat(-1.0))));
            S::store(gate.as_mut_ptr().add(at), S::mul(S::div(g, denominator), u));
        }
    }
}
