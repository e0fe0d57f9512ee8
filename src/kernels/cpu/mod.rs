//! Kernels of our own for the CPU device, as primitives of MLX's graph: MLX's CPU backend multiplies quantised weights in
//! a scalar loop and has no kernels behind its fast operations.
//!
//! **Invariance.** The bits of an output row depend on its own inputs and absolute positions only: not on how many rows
//! there are, where it is among them, how a prompt was cut into chunks, how many threads there are, or which instruction
//! set is used. The product adds in one order for any number of rows; attention takes keys in blocks that begin at
//! multiples of their length; activations stay 32-bit floats.
//!
//! A kernel is written once, generic over `simd::Simd`, and compiled for each instruction set; [`isa`] chooses once.
//! `primitive` is the border to MLX, `fuse` makes one operation of several, `pool` the threads, `packed` the layout of weights, `product` the inner loops of the
//! matrix product, `project` the product with what surrounds it, `append` the cache, `attend` attention over it, `choose` sampling.
//!
//! Safety, for the whole module: a kernel gets buffers of the sizes that its operation was built with, parts of one call
//! write disjoint ranges, and functions with a target feature are called for an [`Isa`] that was detected.
#![allow(unsafe_code)]

mod append;
mod attend;
mod choose;
mod coded;
mod fuse;
mod lookup;
pub mod machine;
mod norm;
mod packed;
mod pool;
mod primitive;
mod product;
mod project;
mod rows;
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::cell::RefCell;
use std::sync::OnceLock;

pub(in crate::kernels) use append::append;
pub(in crate::kernels) use attend::{Cache, Span, Table, attend};
pub(in crate::kernels) use choose::choose;
pub(in crate::kernels) use fuse::fuse;
pub(in crate::kernels) use lookup::lookup;
pub(in crate::kernels) use norm::rms_norm;
pub use packed::{Packed, Real, Rows};
pub(in crate::kernels) use project::{After, Operands, project};

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isa {
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler makes of plain Rust.
    Portable,
}

impl Isa {
    /// Every one that this machine has, the best first.
    fn available() -> Vec<Self> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                available.push(Self::Avx512);
            }
            if avx2 {
                available.push(Self::Avx2);
            }
        }
        available.push(Self::Portable);
        available
    }
}

/// The instruction set of this process.
fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    #[cfg(test)]
    if let Some(isa) = FORCED.get() {
        return isa;
    }
    *ISA.get_or_init(|| Isa::available()[0])
}

#[cfg(test)]
thread_local! {
    static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// Operations that are made inside use this instruction set.
#[cfg(test)]
fn with_isa<R>(isa: Isa, make: impl FnOnce() -> R) -> R {
    FORCED.set(Some(isa));
    let made = make();
    FORCED.set(None);
    made
}

/// As `with_isa`, once with each instruction set that this machine has.
#[cfg(test)]
pub(in crate::kernels) fn with_each_isa<R>(make: impl Fn() -> R) -> Vec<R> {
    Isa::available().into_iter().map(|isa| with_isa(isa, &make)).collect()
}

/// A buffer of which the parts of a call write disjoint ranges.
struct Shared<T>(*mut T);

// SAFETY: who makes one sees to it that ranges are disjoint.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// `len` elements from `start` on.
    ///
    /// # Safety
    /// They are inside the buffer, and nobody else uses them while the slice lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Memory for the time of a call, kept for the next one of this thread.
fn with_scratch<R>(len: usize, use_it: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            scratch.resize(len, 0.0);
        }
        let result = use_it(&mut scratch[..len]);
        if scratch.len() > SCRATCH_KEPT {
            scratch.truncate(SCRATCH_KEPT);
            scratch.shrink_to_fit();
        }
        result
    })
}

/// Floats of scratch memory that a thread keeps: those of a decode step, not those of a prefill chunk.
const SCRATCH_KEPT: usize = 1 << 20;
