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
