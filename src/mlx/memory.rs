//! What MLX's allocator holds. The gauges are process-wide, like the allocator; only the inference thread changes limits.

use crate::mlx::Result;

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
