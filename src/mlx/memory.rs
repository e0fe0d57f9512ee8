//! What MLX's allocator holds, and what the device recommends. The gauges are process-wide, like the allocator; only the inference thread changes limits.

#![allow(unsafe_code)]

use crate::mlx::{Device, Result, device};

/// Bytes that MLX holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// In arrays that live.
    pub active_bytes: u64,
    /// In freed buffers kept for reuse.
    pub cache_bytes: u64,
    /// The most that was ever active since the start or the last reset.
    pub peak_bytes: u64,
}

/// Reads the gauges.
///
/// # Errors
/// MLX refused.
pub fn gauges() -> Result<Gauges> {
    Ok(Gauges {
        active_bytes: mlx_rs::memory::active_memory()? as u64,
        cache_bytes: mlx_rs::memory::cache_memory()? as u64,
        peak_bytes: mlx_rs::memory::peak_memory()? as u64,
    })
}

/// What the GPU's driver recommends as a working set; `None` where there is no GPU or it does not say.
#[must_use]
pub fn recommended_bytes() -> Option<u64> {
    if device() == Device::Cpu {
        return None;
    }
    // SAFETY: both handles are ours from their making to the free below, the key is a literal that ends with a zero, and
    // `bytes` is ours to be written.
    unsafe {
        let gpu = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0);
        let mut info = mlx_sys::mlx_device_info_new();
        let mut bytes = 0_usize;
        let status = mlx_sys::mlx_device_info_get(&raw mut info, gpu);
        let told = status == 0
            && mlx_sys::mlx_device_info_get_size(&raw mut bytes, info, c"max_recommended_working_set_size".as_ptr())
                == 0;
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(gpu);
        (told && bytes > 0).then_some(bytes as u64)
    }
}

/// Starts a new peak.
///
/// # Errors
/// MLX refused.
pub fn reset_peak() -> Result<()> {
    Ok(mlx_rs::memory::reset_peak_memory()?)
}

/// Keeps at most this many bytes of freed buffers for reuse.
///
/// # Errors
/// MLX refused.
pub fn set_cache_limit(bytes: u64) -> Result<()> {
    mlx_rs::memory::set_cache_limit(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    Ok(())
}

/// Gives freed buffers back to the system.
///
/// # Errors
/// MLX refused.
pub fn clear_cache() -> Result<()> {
    Ok(mlx_rs::memory::clear_cache()?)
}

/// Keeps at most this many bytes in memory that is never paged out; 0 is none. Says what the limit was. Without Metal
/// there is no such memory.
///
/// # Errors
/// It is more than the GPU's driver recommends.
pub fn set_wired_limit(bytes: u64) -> Result<u64> {
    Ok(mlx_rs::memory::set_wired_limit(usize::try_from(bytes).unwrap_or(usize::MAX))? as u64)
}
