//! How the C library's allocator gives memory back: by limits that are set once, before there are threads, and when asked.

/// Blocks of this size and more come from the system and go back to it when they are freed: caches of keys and values do,
/// the buffers of a step do not. Left alone, glibc raises this to the largest block freed so far, up to 32 MB, and then
/// keeps what long prompts needed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING_BYTES: libc::c_int = 256 << 10;
/// Free memory that a heap may keep at its end, so that a step does not ask the system for what the last one gave back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 8 << 20;

/// Makes the allocator give large blocks back at once. Nothing to do where the system's allocator does so by itself.
#[allow(unsafe_code)]
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: both only set numbers of the allocator. One that refuses only keeps more memory.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Gives back what is free now; takes milliseconds. Nothing to do where the system's allocator does so by itself.
#[allow(unsafe_code)]
pub fn give_back_free_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes the allocator's own locks and changes nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
