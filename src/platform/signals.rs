//! Signals as values, taken by one thread. It owns the set of signals that the process handles. They are caught by a
//! handler that writes to a pipe and not by `sigwait` behind a mask: libraries that start threads while they are loaded
//! (OpenBLAS does) have them before any mask of ours, and a signal that such a thread takes would kill the process.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// A signal that the process handles. SIGPIPE is ignored by Rust's runtime.
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

const HANDLED: [(i32, Signal); 4] =
    [(SIGTERM, Signal::Terminate), (SIGINT, Signal::Interrupt), (SIGHUP, Signal::HangUp), (SIGUSR1, Signal::User1)];

/// The signals that arrive from now on; the handled ones no longer have their default effect.
#[derive(Debug)]
pub struct Caught(Signals);

/// Catches the handled signals.
///
/// # Errors
/// The system gives no pipe or refuses a handler.
pub fn catch() -> io::Result<Caught> {
    Signals::new(HANDLED.map(|(number, _)| number)).map(Caught)
}

impl Caught {
    /// Waits for the next one.
    #[must_use]
    pub fn wait(&mut self) -> Signal {
        loop {
            let number = self.0.forever().next();
            if let Some((_, signal)) = HANDLED.iter().find(|(handled, _)| Some(*handled) == number) {
                return *signal;
            }
        }
    }
}
