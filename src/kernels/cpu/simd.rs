//! Vectors of 32-bit floats, as few operations as the kernels need, and what they are on a machine without special
//! instructions. A kernel is written once, generic over [`Simd`]; `x86` has the other implementations.
//!
//! Every implementation rounds alike: `fma` rounds once, lanes never meet except in [`Eight::sum`] and [`Eight::largest`],
//! which only eight lanes have and which reduce in one order. So the bits of an output do not depend on the instruction set.

use half::{bf16, f16};

/// One instruction set.
///
/// # Safety
/// Everything here may be called only where the instruction set exists, and the loads and stores only on pointers that are
/// valid for [`Simd::LANES`] elements; no alignment is needed.
pub(super) trait Simd: Copy {
    /// Floats.
    type F: Copy;
    /// Unsigned words.
    type W: Copy;
    /// Elements of a vector.
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, value: Self::F);
    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    unsafe fn load_words(from: *const u32) -> Self::W;
    /// `word & mask` of each lane as a signed integer, converted to a float.
    unsafe fn masked(words: Self::W, mask: u32) -> Self::F;
    /// `word >> BITS` of each lane, converted to a float.
    unsafe fn shifted<const BITS: i32>(words: Self::W) -> Self::F;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// The larger of each pair; the second where one is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of each pair; the second where one is NaN.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `a · 2^n` for integers n of which `2^n` is a normal float.
    unsafe fn scale(a: Self::F, n: Self::F) -> Self::F;
    /// Brings a cache line near before it is needed; any address will do.
    unsafe fn prefetch(_at: *const u8) {}
}

/// Eight lanes, whatever the instruction set: what reductions across a row are made of, so that they add in one order.
pub(super) trait Eight: Simd {
    /// The sum of the lanes: halves, then quarters, then pairs.
    unsafe fn sum(a: Self::F) -> f32;
    /// The largest lane.
    unsafe fn largest(a: Self::F) -> f32;
    /// Eight integers of four bits as floats, from four bytes; the first in the lowest bits.
    unsafe fn nibbles(from: *const u8) -> Self::F;
    /// Eight bytes as floats.
    unsafe fn bytes(from: *const u8) -> Self::F;
}

/// Plain Rust; the compiler vectorises what it can.
#[derive(Clone, Copy)]
pub(super) struct Portable;

#[inline(always)]
fn each<T: Copy, U: Copy + Default, const N: usize>(a: [T; N], f: impl Fn(T) -> U) -> [U; N] {
    let mut out = [U::default(); N];
    for lane in 0..N {
        out[lane] = f(a[lane]);
    }
    out
}

#[inline(always)]
fn both(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    let mut out = [0.0; 8];
    for lane in 0..8 {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

impl Simd for Portable {
    type F = [f32; 8];
    type W = [u32; 8];
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        // SAFETY: the caller's.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::F) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        // SAFETY: the caller's.
        each(unsafe { from.cast::<[u16; 8]>().read_unaligned() }, |bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        // SAFETY: the caller's.
        each(unsafe { from.cast::<[u16; 8]>().read_unaligned() }, |bits| bf16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u32) -> Self::W {
        // SAFETY: the caller's.
        unsafe { from.cast::<[u32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn masked(words: Self::W, mask: u32) -> Self::F {
        each(words, |word| (word & mask).cast_signed() as f32)
    }
    #[inline(always)]
    unsafe fn shifted<const BITS: i32>(words: Self::W) -> Self::F {
        each(words, |word| (word >> BITS) as f32)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        let mut out = c;
        for lane in 0..8 {
            out[lane] = a[lane].mul_add(b[lane], c[lane]);
        }
        out
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        each(a, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn scale(a: Self::F, n: Self::F) -> Self::F {
        both(a, n, |a, n| a * f32::from_bits((n as i32 + 127).cast_unsigned() << 23))
    }
}

impl Eight for Portable {
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        let half = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
        (half[0] + half[2]) + (half[1] + half[3])
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        let pick = |a: f32, b: f32| if a > b { a } else { b };
        let half = [pick(a[0], a[4]), pick(a[1], a[5]), pick(a[2], a[6]), pick(a[3], a[7])];
        pick(pick(half[0], half[2]), pick(half[1], half[3]))
    }
    #[inline(always)]
    unsafe fn nibbles(from: *const u8) -> Self::F {
        // SAFETY: the caller's.
        let word = unsafe { from.cast::<u32>().read_unaligned() };
        each([0, 4, 8, 12, 16, 20, 24, 28], |bits| (word >> bits & 15) as f32)
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::F {
        // SAFETY: the caller's.
        each(unsafe { from.cast::<[u8; 8]>().read_unaligned() }, f32::from)
    }
}

/// `e^x`, within two units in the last place; as at −87 below that, as at 88 above, and NaN for NaN.
///
/// Source: S. L. Moshier, Cephes `expf`: `x = n · ln 2 + r`, a polynomial in r, and n added to the exponent.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller has the instruction set; no memory is touched.
    unsafe {
        let x = S::min(S::splat(88.0), S::max(S::splat(-87.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.987_569_1e-4);
        for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = S::fma(p, r, S::splat(coefficient));
        }
        let p = S::add(S::fma(S::mul(r, r), p, r), S::splat(1.0));
        S::scale(p, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_two_units_in_the_last_place() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            // SAFETY: plain Rust, no memory.
            let [found, ..] = unsafe { exp::<Portable>([x; 8]) };
            let expected = f64::from(x).exp();
            assert!((f64::from(found) - expected).abs() <= expected * 2.4e-7, "{x}: {found} and {expected}");
        }
    }
}
