//! The norm on its own, for models that do not project right after it.

use crate::kernels::cpu::primitive::{Kernel, Made, View, apply};
use crate::kernels::cpu::rows;
use crate::kernels::cpu::simd::{Eight, Portable};
#[cfg(target_arch = "x86_64")]
use crate::kernels::cpu::x86::Avx2;
use crate::kernels::cpu::{Isa, Shared, isa};
use crate::mlx::{Array, Result};

/// Inputs: activations, weight.
struct Norm {
    eps: f32,
    isa: Isa,
}

/// See `kernels::rms_norm`.
pub(in crate::kernels) fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<Array> {
    let shape: Vec<usize> = x.shape().iter().map(|size| size.unsigned_abs() as usize).collect();
    apply(Norm { eps, isa: isa() }, &[x, weight], Made::Floats, None, &shape)
}

impl Kernel for Norm {
    fn run(&self, inputs: &[View], output: &View) {
        let (x, weight) = (inputs[0].elements::<f32>(), inputs[1].elements::<f32>());
        let out = Shared(output.pointer::<f32>());
        for (row, x) in x.chunks_exact(weight.len()).enumerate() {
            // SAFETY: the output has as many rows.
            let out = unsafe { out.slice(row * weight.len(), weight.len()) };
            // SAFETY: the instruction set was detected.
            unsafe { one(self.isa, x, &weight, self.eps, out) }
        }
    }
}

unsafe fn one(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        unsafe { generic::<Avx2>(x, weight, eps, out) }
    }
    #[inline(always)]
    unsafe fn generic<S: Eight>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        unsafe { rows::rms_norm::<S>(x, weight, eps, out) }
    }
    // SAFETY: the caller's.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => avx2(x, weight, eps, out),
            Isa::Portable => generic::<Portable>(x, weight, eps, out),
        }
    }
}
