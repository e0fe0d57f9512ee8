//! The end of this process, and facts about it and about others. It owns `_exit`: no destructor and no atexit handler runs after it, because
//! MLX's static destructors crash or dead-lock when a thread of its own is still alive (L14).

use std::io;
#[cfg(not(target_os = "linux"))]
use std::process::Command;
#[cfg(not(target_os = "linux"))]
use std::time::Duration;

#[cfg(not(target_os = "linux"))]
use crate::platform::child;

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

/// Whether there is a process of this number that we may see. One that ended and was not waited for counts.
#[must_use]
#[allow(unsafe_code)]
pub fn lives(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    // SAFETY: signal 0 is sent to nobody; it only asks. A number of a group (0 and below) is never asked for.
    let status = if pid > 0 { unsafe { libc::kill(pid, 0) } } else { return false };
    status == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// The program and the arguments that a process was started with, with one space between any two.
///
/// # Errors
/// There is no such process, or it may not be looked at.
#[cfg(target_os = "linux")]
pub fn command_line(pid: u32) -> io::Result<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    if bytes.is_empty() {
        // It has ended and nobody has waited for it, or it is being started right now.
        return Err(io::ErrorKind::NotFound.into());
    }
    let words = bytes.strip_suffix(b"\0").unwrap_or(&bytes).split(|byte| *byte == 0);
    Ok(words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "))
}

/// The program and the arguments that a process was started with, with one space between any two.
///
/// # Errors
/// There is no such process, or it may not be looked at.
#[cfg(not(target_os = "linux"))]
pub fn command_line(pid: u32) -> io::Result<String> {
    const PS: &str = "/bin/ps";
    const LIMIT: Duration = Duration::from_secs(10);
    let ended = child::run(Command::new(PS).args(["-ww", "-o", "command=", "-p", &pid.to_string()]), b"", LIMIT)?;
    match ended.stdout.trim_end() {
        "" => Err(io::Error::from(io::ErrorKind::NotFound)),
        words => Ok(words.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_command_line() {
        let mut child = std::process::Command::new("/bin/sleep").args(["60"]).spawn().unwrap();
        // For a moment after its start it has none.
        let begun = std::time::Instant::now();
        let words = loop {
            match command_line(child.id()) {
                Err(_) if begun.elapsed().as_secs() < 10 => std::thread::yield_now(),
                words => break words.unwrap(),
            }
        };
        assert_eq!(words, "/bin/sleep 60");
        child.kill().unwrap();
        child.wait().unwrap();
        command_line(child.id()).unwrap_err();
    }

    #[test]
    fn we_live_and_numbers_that_nobody_has_do_not() {
        assert!(lives(std::process::id()));
        assert!(!lives(0));
        assert!(!lives(u32::MAX));
        assert!(!lives(i32::MAX.cast_unsigned()));
    }
}
