//! What the machine could do at best, by the same vectors and threads as the kernels: benches compare with it, in the same
//! run, because figures of two machines or of two hours compare nothing.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::kernels::cpu::pool::pool;
use crate::kernels::cpu::simd::{Portable, Simd};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::x86::{Avx2, Avx512};
use crate::kernels::cpu::{Isa, isa};

/// Samples; the best is told.
const SAMPLES: usize = 7;
/// Floats that are read, 256 MB: far more than any cache holds.
const FLOATS: usize = 64 << 20;
/// Floats that a part of the reading takes.
const PART: usize = 1 << 18;
/// Multiply-adds of a vector in one sample and thread.
const STEPS: usize = 1 << 20;

/// Sums floats, or multiplies and adds for so many steps; a value, so that nothing is left out.
trait Loop {
    unsafe fn run<S: Simd>(&self) -> f32;
}

struct Sum<'a>(&'a [f32]);

impl Loop for Sum<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self) -> f32 {
        let mut first = [0.0; 16];
        // SAFETY: whole chunks of eight vectors inside the slice.
        unsafe {
            let mut sums = [S::splat(0.0); 8];
            for chunk in self.0.chunks_exact(8 * S::LANES) {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = S::add(*sum, S::load(chunk.as_ptr().add(vector * S::LANES)));
                }
            }
            let total = sums.into_iter().reduce(|a, b| S::add(a, b)).expect("eight");
            S::store(first.as_mut_ptr(), total);
        }
        first[0]
    }
}

struct MultiplyAdd;

impl Loop for MultiplyAdd {
    #[inline(always)]
    unsafe fn run<S: Simd>(&self) -> f32 {
        let mut first = [0.0; 16];
        // SAFETY: the buffer holds a vector of any instruction set.
        unsafe {
            let (a, b) = (S::splat(black_box(0.999)), S::splat(black_box(0.001)));
            let mut values = [S::splat(1.0); 12];
            for _ in 0..STEPS / 12 {
                for value in &mut values {
                    *value = S::fma(*value, a, b);
                }
            }
            let total = values.into_iter().reduce(|x, y| S::add(x, y)).expect("twelve");
            S::store(first.as_mut_ptr(), total);
        }
        first[0]
    }
}

fn run(work: &impl Loop) -> f32 {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn avx512(work: &impl Loop) -> f32 {
        unsafe { work.run::<Avx512>() }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(work: &impl Loop) -> f32 {
        unsafe { work.run::<Avx2>() }
    }
    // SAFETY: the instruction set was detected.
    unsafe {
        match isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(work),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(work),
            Isa::Portable => work.run::<Portable>(),
        }
    }
}

/// The quickest of some samples of work on all threads.
fn best(parts: usize, work: impl Fn(usize) + Sync) -> Duration {
    let sample = || {
        let begun = Instant::now();
        pool().run(parts, &work);
        begun.elapsed()
    };
    (0..SAMPLES).map(|_| sample()).min().expect("some")
}

/// Bytes a second that all threads together read from memory.
#[must_use]
pub fn read_bandwidth() -> f64 {
    let floats = vec![1.0_f32; FLOATS];
    let took = best(FLOATS / PART, |part| {
        black_box(run(&Sum(&floats[part * PART..][..PART])));
    });
    (FLOATS * 4) as f64 / took.as_secs_f64()
}

/// Floating-point operations a second of all threads together, a multiply-add counted as two.
#[must_use]
pub fn peak_flops() -> f64 {
    let threads = pool().threads();
    let done = AtomicU64::new(0);
    let took = best(threads, |_| {
        black_box(run(&MultiplyAdd));
        done.fetch_add(1, Ordering::Relaxed);
    });
    let lanes = match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => Avx512::LANES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Avx2::LANES,
        Isa::Portable => Portable::LANES,
    };
    let steps = done.into_inner() as usize / SAMPLES * (STEPS / 12 * 12);
    (2 * lanes * steps) as f64 / took.as_secs_f64()
}

/// The instruction set and the number of threads of the kernels, for reports.
#[must_use]
pub fn describe() -> String {
    format!("{:?}, {} threads", isa(), pool().threads())
}
