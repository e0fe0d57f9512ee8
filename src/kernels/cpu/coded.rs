//! The keys or the values of one head as the attention kernel reads them: eight elements at a time, decoded on the way from
//! memory to the multiplication. A coding is an implementation of [`Coded`]; the kernel is compiled for each.

use crate::kernels::cpu::rows::load_up_to;
use crate::kernels::cpu::simd::Eight;

/// Rows of one head.
pub(super) trait Coded: Copy {
    /// Elements `at..` of a row: eight, or as many as there are and zeros.
    ///
    /// # Safety
    /// The row is there, `at` is inside it and a multiple of eight, and the instruction set exists.
    unsafe fn load<S: Eight>(&self, row: usize, at: usize) -> S::F;
}

/// Floats as they were computed.
#[derive(Clone, Copy)]
pub(super) struct Floats {
    /// `[positions, width]`.
    pub(super) elements: *const f32,
    pub(super) width: usize,
}

/// Integers of `BITS` bits with a scale and a bias for each group.
#[derive(Clone, Copy)]
pub(super) struct Affine<const BITS: usize> {
    /// `[positions, width · BITS / 8]`, the first element in the lowest bits.
    pub(super) integers: *const u8,
    /// `[positions, width / group]`.
    pub(super) scales: *const f32,
    /// `[positions, width / group]`.
    pub(super) biases: *const f32,
    pub(super) width: usize,
    pub(super) group: usize,
}

impl Coded for Floats {
    #[inline(always)]
    unsafe fn load<S: Eight>(&self, row: usize, at: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe { load_up_to::<S>(self.elements.add(row * self.width + at), self.width - at) }
    }
}

impl<const BITS: usize> Coded for Affine<BITS> {
    #[inline(always)]
    unsafe fn load<S: Eight>(&self, row: usize, at: usize) -> S::F {
        // SAFETY: the caller's; groups are multiples of eight elements, so the eight are there and share one group.
        unsafe {
            let place = row * (self.width / self.group) + at / self.group;
            let from = self.integers.add((row * self.width + at) * BITS / 8);
            let integers = if BITS == 4 { S::nibbles(from) } else { S::bytes(from) };
            S::fma(integers, S::splat(*self.scales.add(place)), S::splat(*self.biases.add(place)))
        }
    }
}
