//! The process asks its own engine for a token: it gets one when nobody else is there, and lets go when somebody comes.

use std::time::Duration;

use super::{FATAL, POISON, Rig};
use crate::job::Event;
use crate::lifecycle::phase::Phase;
use crate::lifecycle::self_probe::Outcome;

/// What has not become of a probe after this long never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// Steps that the engine spent on probes, in all and while a client was there.
fn steps(rig: &Rig) -> (u64, u64) {
    (rig.lifecycle.self_probe.steps(), rig.lifecycle.self_probe.steps_while_clients())
}

#[test]
fn p5_an_idle_engine_answers_the_process_by_the_path_of_clients_and_takes_no_clients_place() {
    let rig = Rig::new(1, 1, false);
    for round in 1..=2 {
        let asked = rig.handle.probe(&[1, 2, 3, 4, 5]).expect("the slot is free");
        assert_eq!(asked.wait(PATIENCE), Some(Outcome::Answered));
        assert_eq!(steps(&rig), (3 * round, 0), "two chunks and a token");
    }
    let pulse = rig.lifecycle.heartbeat.pulse();
    assert_eq!((pulse.running, pulse.queued), (0, 0));
    let seen = rig.seen.lock().expect("no test panics with it");
    assert_eq!((seen.opened, seen.closed), (3, 3), "the token of the start and two probes");
}

#[test]
fn p6_a_probe_is_dropped_when_a_client_comes_and_never_begun_while_one_is_there() {
    let mut rig = Rig::new(4, 1, true);
    let asked = rig.handle.probe(&[1, 2, 3, 4, 5]).expect("the slot is free");
    assert!(rig.handle.probe(&[1]).is_none(), "there is one slot, and its probe cannot have ended");
    let mut client = rig.submit(&[7, 8], 3).expect("a place");
    // A chunk of the probe may be under way; the client is admitted right behind it.
    rig.step();
    assert_eq!(rig.next(&mut client), Some(Event::Admitted));
    assert_eq!(asked.wait(PATIENCE), Some(Outcome::Yielded));
    let spent = steps(&rig).0;
    assert!(spent <= 1, "{spent} steps were spent before the client was heard");
    let late = rig.handle.probe(&[1, 2]).expect("the slot is free again");
    rig.gate = None;
    let (tokens, _) = rig.finish(&mut client);
    assert_eq!(tokens.len(), 3);
    // It yielded, or it was heard when the client had gone.
    let outcome = late.wait(PATIENCE);
    assert!(matches!(outcome, Some(Outcome::Yielded | Outcome::Answered)), "{outcome:?}");
    assert_eq!(steps(&rig).1, 0);
}

#[test]
fn p5_a_probe_that_is_given_up_frees_its_row_and_its_slot() {
    let mut rig = Rig::new(4, 1, true);
    drop(rig.handle.probe(&[1, 2, 3, 4, 5]).expect("the slot is free"));
    let mut client = rig.submit(&[7, 8], 2).expect("a place");
    rig.gate = None;
    rig.finish(&mut client);
    let asked = rig.handle.probe(&[1]).expect("the slot is free");
    assert_eq!(asked.wait(PATIENCE), Some(Outcome::Answered));
    let seen = rig.seen.lock().expect("no test panics with it");
    assert_eq!(seen.opened, seen.closed);
}

#[test]
fn p5_a_probe_without_a_token_fails_and_one_that_the_device_does_not_survive_is_the_end() {
    let rig = Rig::new(1, 1, false);
    let asked = rig.handle.probe(&[1, POISON]).expect("the slot is free");
    assert_eq!(asked.wait(PATIENCE), Some(Outcome::Failed));
    let mut client = rig.submit(&[7, 8], 2).expect("a place");
    assert_eq!(rig.finish(&mut client).0.len(), 2, "clients are served on");
    let asked = rig.handle.probe(&[1, FATAL]).expect("the slot is free");
    assert_eq!(asked.wait(PATIENCE), Some(Outcome::Missed));
    rig.runtime.block_on(rig.lifecycle.dead().cancelled());
    assert_eq!(rig.lifecycle.phase.now(), Phase::Dead);
}
