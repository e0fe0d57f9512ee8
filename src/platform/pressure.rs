//! How short the system is of memory, as its kernel tells; read when asked.

#![allow(unsafe_code)]

/// How short the system is of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// There is enough.
    Normal,
    /// Whoever can do without something should give it back.
    Warning,
    /// Whoever takes more risks that processes are ended.
    Critical,
}

/// What the kernel says now; [`Pressure::Normal`] where it says nothing.
#[must_use]
pub fn now() -> Pressure {
    level()
}

/// The level that macOS also tells by its dispatch source; a number of its own for each.
#[cfg(target_os = "macos")]
fn level() -> Pressure {
    const WARNING: libc::c_int = 2;
    const CRITICAL: libc::c_int = 4;
    let mut level: libc::c_int = 0;
    let mut bytes = size_of::<libc::c_int>();
    // SAFETY: the name ends with a zero, `level` is ours to be filled and `bytes` is its size; nothing is written to the
    // system.
    let status = unsafe {
        libc::sysctlbyname(
            c"kern.memorystatus_vm_pressure_level".as_ptr(),
            (&raw mut level).cast(),
            &raw mut bytes,
            std::ptr::null_mut(),
            0,
        )
    };
    match level {
        CRITICAL if status == 0 => Pressure::Critical,
        WARNING if status == 0 => Pressure::Warning,
        _ => Pressure::Normal,
    }
}

/// Linux has no levels: they are shares of the memory that could be had without swapping.
#[cfg(not(target_os = "macos"))]
fn level() -> Pressure {
    std::fs::read_to_string("/proc/meminfo").map_or(Pressure::Normal, |text| level_of(&text))
}

/// The level that a `/proc/meminfo` amounts to: below 5 % available is critical, below 10 % a warning.
#[cfg(not(target_os = "macos"))]
fn level_of(text: &str) -> Pressure {
    let kilobytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    match (kilobytes("MemTotal"), kilobytes("MemAvailable")) {
        (Some(total), Some(available)) if available < total / 20 => Pressure::Critical,
        (Some(total), Some(available)) if available < total / 10 => Pressure::Warning,
        (_, _) => Pressure::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked() {
        assert!(now() <= Pressure::Critical);
    }

    #[cfg(not(target_os = "macos"))]
    #[test]
    fn levels_are_shares_of_what_is_available() {
        let text =
            |available: u64| format!("MemTotal:       1000 kB\nMemFree: 9 kB\nMemAvailable:    {available} kB\n");
        assert_eq!(level_of(&text(500)), Pressure::Normal);
        assert_eq!(level_of(&text(99)), Pressure::Warning);
        assert_eq!(level_of(&text(49)), Pressure::Critical);
        assert_eq!(level_of("nothing of the kind"), Pressure::Normal);
    }
}
