//! The thread that keeps the machine from falling asleep while answers are generated, and lets it when none are. It is a
//! thread of its own because the system's power management is another process, which may be slow to answer, and the watch
//! thread waits for nobody.

use std::io;
use std::sync::Arc;
use std::thread::{self, Builder};
use std::time::Duration;

use crate::lifecycle::Lifecycle;
use crate::platform::power::{self, Awake};

/// Looks every `pause` from now on, where the system can be asked.
///
/// # Errors
/// The system gives no thread.
pub(super) fn keep(lifecycle: &Arc<Lifecycle>, pause: Duration) -> io::Result<()> {
    if !power::CAN_ASK {
        return Ok(());
    }
    let lifecycle = Arc::clone(lifecycle);
    let keep = move || {
        let mut held = None;
        loop {
            thread::park_timeout(pause);
            hold_while(lifecycle.heartbeat.pulse().running > 0, &mut held, Awake::ask);
        }
    };
    Builder::new().name("power".to_owned()).spawn(keep).map(drop)
}

/// Holds one while `busy`, and none otherwise; what was refused is asked for again at the next look.
fn hold_while<A>(busy: bool, held: &mut Option<A>, ask: impl FnOnce() -> Option<A>) {
    if !busy {
        *held = None;
    } else if held.is_none() {
        *held = ask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_held_from_the_first_row_to_the_last_and_asked_for_again_when_it_was_refused() {
        let mut held = None;
        hold_while(false, &mut held, || Some(1));
        assert_eq!(held, None);
        hold_while(true, &mut held, || None);
        assert_eq!(held, None, "refused");
        hold_while(true, &mut held, || Some(2));
        hold_while(true, &mut held, || Some(3));
        assert_eq!(held, Some(2), "asked once");
        hold_while(false, &mut held, || Some(4));
        assert_eq!(held, None, "let go");
    }
}
