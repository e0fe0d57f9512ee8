//! What a signal to stop means, as a state machine over one atomic: the first one begins the drain, any further TERM
//! changes nothing, a second INT ends the process at once.

use std::sync::atomic::AtomicU8;

use crate::lifecycle::shared::AtomicByte;

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
}

/// What the caller has to do; `BeginDrain` is returned to exactly one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Close the listeners and arm the exit timer.
    BeginDrain,
    /// Nothing: the drain is under way and its deadline stands.
    Nothing,
    /// Interrupted twice: leave at once.
    LeaveNow,
}

/// No request yet.
const RUNNING: u8 = 0;
/// Draining, no INT seen.
const DRAINING: u8 = 1;
/// Draining, one INT seen.
const INTERRUPTED: u8 = 2;

/// The machine.
#[derive(Debug, Default)]
pub(crate) struct Stop<A>(A);

impl Stop<AtomicU8> {
    pub(crate) fn new() -> Self {
        Self::at_first(AtomicU8::new)
    }
}

impl<A: AtomicByte> Stop<A> {
    /// No request has come. `byte` makes an atomic.
    pub(crate) fn at_first(byte: impl FnOnce(u8) -> A) -> Self {
        Self(byte(RUNNING))
    }

    /// Takes a request; any thread, any number of times.
    pub(crate) fn request(&self, request: Request) -> Action {
        loop {
            let state = self.0.load();
            let (next, action) = match (state, request) {
                (RUNNING, Request::Terminate) => (DRAINING, Action::BeginDrain),
                (RUNNING, Request::Interrupt) => (INTERRUPTED, Action::BeginDrain),
                (DRAINING, Request::Interrupt) => (INTERRUPTED, Action::Nothing),
                (DRAINING | INTERRUPTED, Request::Terminate) => return Action::Nothing,
                (INTERRUPTED, Request::Interrupt) => return Action::LeaveNow,
                _ => unreachable!("the byte holds one of three states"),
            };
            if self.0.replace(state, next) {
                return action;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn l6_loom_exactly_one_of_racing_signals_begins_the_drain() {
        loom::model(|| {
            let stop = loom::sync::Arc::new(Stop::at_first(loom::sync::atomic::AtomicU8::new));
            let racer = |request| {
                let stop = loom::sync::Arc::clone(&stop);
                loom::thread::spawn(move || stop.request(request))
            };
            let threads = [racer(Request::Terminate), racer(Request::Interrupt)];
            let mut actions = vec![stop.request(Request::Terminate)];
            actions.extend(threads.map(|thread| thread.join().expect("a model thread does not panic")));
            let begun = actions.iter().filter(|action| **action == Action::BeginDrain).count();
            assert_eq!(begun, 1, "{actions:?}");
            assert!(!actions.contains(&Action::LeaveNow), "one INT never leaves at once");
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn l6_any_sequence_of_signals_is_one_drain_and_only_a_second_interrupt_leaves(
            requests in prop::collection::vec(
                prop_oneof![Just(Request::Terminate), Just(Request::Interrupt)], 2..50)
        ) {
            let stop = Stop::new();
            let mut interrupts = 0;
            for (index, request) in requests.into_iter().enumerate() {
                interrupts += usize::from(request == Request::Interrupt);
                let expected = if index == 0 {
                    Action::BeginDrain
                } else if request == Request::Interrupt && interrupts >= 2 {
                    Action::LeaveNow
                } else {
                    Action::Nothing
                };
                prop_assert_eq!(stop.request(request), expected);
            }
        }
    }
}
