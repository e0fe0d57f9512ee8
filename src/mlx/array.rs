//! Arrays from and to host memory, and the slices that `mlx_rs` offers only through its indexing syntax. The only
//! `unsafe` of the numeric stack: every block says what keeps the pointer valid.
#![allow(unsafe_code)]

use std::sync::Once;

use mlx_rs::Stream;

use crate::mlx::{Array, Dtype, MlxError, Result, dim};

/// Token ids as a `[1, L]` array.
#[must_use]
pub fn from_tokens(tokens: &[u32]) -> Array {
    Array::from_slice(tokens, &[1, dim(tokens.len())])
}

/// Floats as an array of `shape`; the data is copied.
#[must_use]
pub fn from_f32(values: &[f32], shape: &[usize]) -> Array {
    Array::from_slice(values, &dims(shape))
}

/// A new array whose bytes `fill` writes in place, so that a weight exists once in memory: MLX's CPU allocator would copy
/// a buffer of ours.
///
/// # Errors
/// The memory was refused, or `fill` failed.
pub fn filled<E: From<MlxError>>(
    shape: &[usize],
    dtype: Dtype,
    fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
) -> std::result::Result<Array, E> {
    let array = allocate(shape, dtype)?;
    let bytes = array.nbytes();
    if bytes > 0 {
        // SAFETY: `array` was just evaluated, so its buffer holds `nbytes` initialised bytes and stays where it is while
        // `array` lives; nothing else refers to it, and this thread is the only one that uses it.
        let buffer = unsafe { mlx_sys::mlx_array_data_uint8(array.as_ptr()) }.cast_mut();
        assert!(!buffer.is_null(), "an evaluated array has a buffer");
        // SAFETY: as above.
        fill(unsafe { std::slice::from_raw_parts_mut(buffer, bytes) })?;
    }
    Ok(array)
}

/// As [`filled`], for 32-bit floats.
///
/// # Errors
/// The memory was refused, or `fill` failed.
pub fn filled_f32<E: From<MlxError>>(
    shape: &[usize],
    fill: impl FnOnce(&mut [f32]) -> std::result::Result<(), E>,
) -> std::result::Result<Array, E> {
    filled(shape, Dtype::Float32, |bytes| {
        // SAFETY: every bit pattern is a float, and the parts outside it are asserted to be empty.
        let (before, floats, after) = unsafe { bytes.align_to_mut::<f32>() };
        assert!(before.is_empty() && after.is_empty(), "MLX aligns its buffers to at least four bytes");
        fill(floats)
    })
}

/// An evaluated array of zeros with a buffer of its own.
fn allocate(shape: &[usize], dtype: Dtype) -> Result<Array> {
    let array = mlx_rs::ops::zeros_dtype(&dims(shape), dtype)?;
    let array = array.contiguous()?;
    array.eval()?;
    Ok(array)
}

/// All values of a `u32` array, row by row; waits for them.
///
/// # Errors
/// The device failed.
pub fn to_u32_vec(array: &Array) -> Result<Vec<u32>> {
    Ok(array.contiguous()?.to_vec_cast::<u32>()?)
}

/// All values, row by row, as 32-bit floats; waits for them.
///
/// # Errors
/// The device failed.
pub fn to_f32_vec(array: &Array) -> Result<Vec<f32>> {
    Ok(array.contiguous()?.to_vec_cast::<f32>()?)
}

/// `array[start..stop]` along every axis; a view.
///
/// # Errors
/// The ranges do not fit the array.
pub fn slice(array: &Array, start: &[usize], stop: &[usize]) -> Result<Array> {
    let (start, stop, strides) = (dims(start), dims(stop), vec![1; start.len()]);
    let stream = Stream::thread_local_or_default();
    made(|result| {
        // SAFETY: the pointers are live slices of the lengths given, and MLX copies them before it returns.
        unsafe {
            mlx_sys::mlx_slice(
                result,
                array.as_ptr(),
                start.as_ptr(),
                start.len(),
                stop.as_ptr(),
                stop.len(),
                strides.as_ptr(),
                strides.len(),
                stream.as_ptr(),
            )
        }
    })
}

/// `array` with `update` at `start`; in place when nothing else refers to `array` by the time it is evaluated.
///
/// # Errors
/// The update does not fit the array.
pub fn slice_update(array: &Array, update: &Array, start: &[usize]) -> Result<Array> {
    let start = dims(start);
    let stop: Vec<i32> = start.iter().zip(update.shape()).map(|(start, size)| start + size).collect();
    let strides = vec![1; start.len()];
    let stream = Stream::thread_local_or_default();
    made(|result| {
        // SAFETY: the pointers are live slices of the lengths given, and MLX copies them before it returns.
        unsafe {
            mlx_sys::mlx_slice_update(
                result,
                array.as_ptr(),
                update.as_ptr(),
                start.as_ptr(),
                start.len(),
                stop.as_ptr(),
                stop.len(),
                strides.as_ptr(),
                strides.len(),
                stream.as_ptr(),
            )
        }
    })
}

/// Runs one mlx-c operation that writes an array.
fn made(operation: impl FnOnce(*mut mlx_sys::mlx_array) -> i32) -> Result<Array> {
    // Until the first checked operation of `mlx_rs` has installed its error handler, mlx-c's own ends the process.
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| drop(mlx_rs::memory::active_memory()));
    // SAFETY: an empty handle, owned by this frame until it is wrapped below.
    let mut result = unsafe { mlx_sys::mlx_array_new() };
    let status = operation(&raw mut result);
    // SAFETY: the handle is ours and is given to exactly one owner.
    let array = unsafe { Array::from_ptr(result) };
    if status == 0 { Ok(array) } else { Err(MlxError(format!("slice operation refused with status {status}"))) }
}

fn dims(shape: &[usize]) -> Vec<i32> {
    shape.iter().copied().map(dim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_arrays_hold_what_was_written() {
        let array = filled_f32(&[2, 3], |values| {
            for (index, value) in values.iter_mut().enumerate() {
                *value = index as f32;
            }
            Ok::<(), MlxError>(())
        })
        .expect("memory");
        assert_eq!(to_f32_vec(&array).expect("cpu"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn a_slice_is_what_its_update_wrote() {
        let base = from_f32(&[0.0; 12], &[3, 4]);
        let base = slice_update(&base, &from_f32(&[1.0, 2.0], &[1, 2]), &[1, 2]).expect("fits");
        let row = slice(&base, &[1, 1], &[2, 4]).expect("fits");
        assert_eq!(to_f32_vec(&row).expect("cpu"), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn a_slice_outside_its_array_is_an_error_and_not_an_end() {
        let base = from_f32(&[0.0; 4], &[2, 2]);
        assert!(slice_update(&base, &from_f32(&[1.0; 6], &[2, 3]), &[0, 0]).is_err());
    }
}
