//! Signals as values: blocked in every thread, taken by one. It owns the set of signals that the process handles.

use std::mem::MaybeUninit;

/// A signal that the process handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGHUP.
    HangUp,
    /// SIGUSR1.
    User1,
}

const HANDLED: [(libc::c_int, Signal); 4] = [
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGINT, Signal::Interrupt),
    (libc::SIGHUP, Signal::HangUp),
    (libc::SIGUSR1, Signal::User1),
];

/// Shows that the handled signals are blocked in this thread and in every thread it starts.
#[derive(Debug)]
pub struct BlockedSignals(libc::sigset_t);

/// Blocks the handled signals and ignores SIGPIPE. Call it before the first thread is started.
///
/// # Panics
/// When the system refuses the mask, which no valid set can cause.
#[must_use]
#[allow(unsafe_code)]
pub fn block() -> BlockedSignals {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given before anything reads it; `sigaddset` and `pthread_sigmask`
    // get that initialised set and valid signal numbers; SIG_IGN is a valid disposition for SIGPIPE.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for (number, _) in HANDLED {
            libc::sigaddset(set.as_mut_ptr(), number);
        }
        let set = set.assume_init();
        let status = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        assert_eq!(status, 0, "pthread_sigmask takes a valid set");
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        set
    };
    BlockedSignals(set)
}

/// Waits for the next handled signal.
#[allow(unsafe_code)]
#[must_use]
pub fn wait(blocked: &BlockedSignals) -> Signal {
    loop {
        let mut number: libc::c_int = 0;
        // SAFETY: the set is initialised and its signals are blocked in this thread; `number` is valid for writes.
        let status = unsafe { libc::sigwait(&raw const blocked.0, &raw mut number) };
        if status == 0
            && let Some((_, signal)) = HANDLED.iter().find(|(handled, _)| *handled == number)
        {
            return *signal;
        }
    }
}
