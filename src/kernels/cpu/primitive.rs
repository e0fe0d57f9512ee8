//! A function of ours as an operation of MLX's graph. It owns the crossing of the language border: what is called is
//! `Kernel::run`, on the thread of MLX's CPU stream, when the array it makes is evaluated.
//!
//! MLX keeps the buffers of the inputs and of the output until the call has returned. A panic inside becomes an error of
//! the stream, which the next wait reports.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::mlx::{Array, MlxError, Result, dim};

/// What computes one array from others.
pub(super) trait Kernel: Send + Sync + 'static {
    /// Writes all of the output. For a kernel with a donor the output begins with the donor's contents.
    fn run(&self, inputs: &[View], output: &View);
}

/// An evaluated array: where its elements lie.
#[repr(C)]
pub(super) struct View {
    data: *mut c_void,
    shape: *const i32,
    strides: *const i64,
    dims: usize,
}

#[repr(C)]
struct Callback {
    state: *mut c_void,
    run: unsafe extern "C" fn(*const c_void, *const View, usize, *const View) -> c_int,
    drop: unsafe extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    fn sanctum_apply(
        kernel: Callback,
        donor: c_int,
        inputs: *const *mut c_void,
        count: usize,
        shape: *const i32,
        dims: usize,
        words: c_int,
    ) -> *mut c_void;
}

/// The type of what a kernel makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// 32-bit floats.
    Floats,
    /// Unsigned words of 32 bits.
    Words,
}

/// The array that `kernel` will compute from `inputs`; with a `donor`, in the place of that input, which
/// is copied first only where somebody else still needs it.
pub(super) fn apply<K: Kernel>(
    kernel: K,
    inputs: &[&Array],
    made: Made,
    donor: Option<usize>,
    shape: &[usize],
) -> Result<Array> {
    let shape: Vec<i32> = shape.iter().copied().map(dim).collect();
    let handles: Vec<*mut c_void> = inputs.iter().map(|input| input.as_ptr().ctx).collect();
    let state = Box::into_raw(Box::new(kernel)).cast();
    let callback = Callback { state, run: run::<K>, drop: release::<K> };
    let donor = donor.map_or(-1, dim);
    let words = c_int::from(made == Made::Words);
    // SAFETY: the handles are of live arrays, the slices have the lengths given and are copied before the call returns;
    // `state` is freed by `drop`, exactly once, after the last call of `run`.
    let array =
        unsafe { sanctum_apply(callback, donor, handles.as_ptr(), handles.len(), shape.as_ptr(), shape.len(), words) };
    if array.is_null() {
        return Err(MlxError::refused("a native kernel"));
    }
    // SAFETY: a new array of which this is the only handle.
    Ok(unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx: array }) })
}

unsafe extern "C" fn run<K: Kernel>(
    state: *const c_void,
    inputs: *const View,
    count: usize,
    output: *const View,
) -> c_int {
    // SAFETY: `state` is the kernel that `apply` boxed; the views live until this returns.
    let (kernel, inputs, output) =
        unsafe { (&*state.cast::<K>(), std::slice::from_raw_parts(inputs, count), &*output) };
    c_int::from(catch_unwind(AssertUnwindSafe(|| kernel.run(inputs, output))).is_err())
}

unsafe extern "C" fn release<K: Kernel>(state: *mut c_void) {
    // SAFETY: `apply` boxed it, and C++ calls this once.
    drop(unsafe { Box::from_raw(state.cast::<K>()) });
}

impl View {
    /// Slowest dimension first.
    pub(super) fn shape(&self) -> &[i32] {
        // SAFETY: MLX's shape of `dims` sizes lives as long as the view; a scalar has none.
        if self.dims == 0 { &[] } else { unsafe { std::slice::from_raw_parts(self.shape, self.dims) } }
    }

    fn strides(&self) -> &[i64] {
        // SAFETY: as for the shape.
        if self.dims == 0 { &[] } else { unsafe { std::slice::from_raw_parts(self.strides, self.dims) } }
    }

    /// Elements of the array.
    pub(super) fn len(&self) -> usize {
        self.shape().iter().map(|size| size.unsigned_abs() as usize).product()
    }

    /// The first element.
    pub(super) fn pointer<T>(&self) -> *mut T {
        self.data.cast()
    }

    /// Whether the elements follow each other without gaps.
    fn dense(&self) -> bool {
        let mut expected = 1;
        self.shape().iter().zip(self.strides()).rev().all(|(size, stride)| {
            let fits = *size == 1 || *stride == expected;
            expected *= i64::from(*size);
            fits
        })
    }

    /// All elements in order; copied only where they do not lie so.
    pub(super) fn elements<T: Copy>(&self) -> std::borrow::Cow<'_, [T]> {
        if self.dense() {
            // SAFETY: `len` elements of the array's type follow each other, and nobody writes them before the kernel
            // has returned.
            return unsafe { std::slice::from_raw_parts(self.data.cast::<T>(), self.len()) }.into();
        }
        let (shape, strides) = (self.shape(), self.strides());
        let at = |mut index: usize| {
            let mut offset = 0;
            for (size, stride) in shape.iter().zip(strides).rev() {
                let size = size.unsigned_abs() as usize;
                offset += (index % size) as i64 * stride;
                index /= size;
            }
            // SAFETY: an index inside the shape, so an element of the array.
            unsafe { *self.data.cast::<T>().offset(offset as isize) }
        };
        (0..self.len()).map(at).collect()
    }
}
