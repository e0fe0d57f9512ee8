//! Two monotonic clocks: one that stands still while the machine sleeps, and one that does not. Stall rules use the
//! first, so that a night's sleep is no stall; their difference tells that the machine slept.

/// Milliseconds of a clock that stands still during system sleep (`CLOCK_MONOTONIC`; `CLOCK_UPTIME_RAW` on macOS).
#[must_use]
pub fn awake_ms() -> u64 {
    #[cfg(target_os = "macos")]
    let id = libc::CLOCK_UPTIME_RAW;
    #[cfg(not(target_os = "macos"))]
    let id = libc::CLOCK_MONOTONIC;
    read_ns(id) / 1_000_000
}

/// Milliseconds of a clock that goes on during system sleep (`CLOCK_BOOTTIME`; `CLOCK_MONOTONIC_RAW` on macOS, which
/// counts like `mach_continuous_time`).
#[must_use]
pub fn wall_ms() -> u64 {
    #[cfg(target_os = "macos")]
    let id = libc::CLOCK_MONOTONIC_RAW;
    #[cfg(not(target_os = "macos"))]
    let id = libc::CLOCK_BOOTTIME;
    read_ns(id) / 1_000_000
}

#[allow(unsafe_code)]
fn read_ns(id: libc::clockid_t) -> u64 {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spec` is a valid, exclusively borrowed timespec for the length of the call; `id` is one of the constants
    // above, which both systems define.
    let status = unsafe { libc::clock_gettime(id, &raw mut spec) };
    assert_eq!(status, 0, "clock_gettime knows this clock on every supported system");
    u64::try_from(spec.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(spec.tv_nsec).unwrap_or(0)
}

/// Nanoseconds since boot: mlx-rs asks Apple's clock for a random seed, and Linux has no such symbol.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn mach_approximate_time() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC)
}
