//! The end of the process and facts about it. It owns `_exit`: no destructor and no atexit handler runs after it, because
//! MLX's static destructors crash or dead-lock when a thread of its own is still alive (L14).

use std::io;

/// Ends the process at once with `code`.
#[allow(unsafe_code)]
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes no pointer and never returns; skipping destructors is its purpose here.
    unsafe { libc::_exit(code) }
}

/// Seconds of processor time that this process has used, user and system, all threads.
///
/// # Errors
/// The system refuses, which it has no reason to.
#[allow(unsafe_code)]
pub fn cpu_seconds() -> io::Result<f64> {
    // SAFETY: all-zero bytes are a valid `rusage`: it holds plain integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to our own `rusage`, which the call fills.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}
