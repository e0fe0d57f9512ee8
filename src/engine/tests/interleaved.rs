//! V3: the loop of the inference thread among those who submit, read, leave and stop, under a scheduler that chooses who
//! goes on at each seam by probabilistic concurrency testing (Burckhardt et al., 2010).
//!
//! The loop is the one that ships, `run_to_end` with its panic boundary and its end, and so are the channels and the
//! gauges: the scheduler runs every thread on one, and none of them ever waits in the system. Readers wait as they do
//! in the product, by a waker; one who is never told is a deadlock, which the scheduler reports. What it cannot show is
//! the inside of a channel, whose authors have models of their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::PctScheduler;
use shuttle::{Config, Runner, future, thread};

use crate::engine::channel;
use crate::engine::handle::{Events, Handle, Refusal, Shared};
use crate::engine::seam::modelled::{Seam, under};
use crate::engine::tests::{FATAL, Oracle, POISON, Seen, expected, job};
use crate::engine::thread::Inference;
use crate::job::{Event, Failure};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::phase::Phase;

/// Schedules of a usual run.
const SCHEDULES: usize = 10_000;
/// Changes of priority in one schedule, and one: bugs that need fewer orderings are found soon.
const DEPTH: usize = 4;
/// Of one thread: the loop's turn is deeper than the checker's default.
const STACK_BYTES: usize = 256 << 10;
const QUEUE_JOBS_MAX: u32 = 3;
const ROWS_MAX: u32 = 2;

/// How a request can end.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Finished,
    RowFailed,
    EngineDead,
    ShuttingDown,
    Refused,
}

/// How often each kind came, over all schedules.
static MET: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

impl Kind {
    fn note(self) {
        MET[self as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Lets the scheduler choose who goes on.
fn schedule(seam: Seam) {
    match seam {
        Seam::Crossed => thread::sleep(Duration::ZERO),
        Seam::Idle => thread::yield_now(),
    }
}

/// What one schedule runs on.
#[derive(Clone)]
struct World {
    handle: Handle,
    lifecycle: Arc<Lifecycle>,
    /// Somebody asked for what ends the device.
    fatal: bool,
}

impl World {
    fn submit(&self, prompt: &[u32], tokens_max: u32) -> Option<Events> {
        match self.handle.submit(job(&self.handle, prompt, tokens_max, Instant::now() + Duration::from_secs(600))) {
            Ok(events) => Some(events),
            Err(Refusal::QueueFull { .. }) => None,
            Err(Refusal::NotReady(phase)) => {
                assert!(matches!(phase, Phase::Draining | Phase::Dead), "{phase}: ready until it is told to stop");
                None
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    /// Submits and reads to the end, which comes once and fits what was asked.
    fn ask(&self, prompt: &[u32], tokens_max: u32) {
        let Some(mut events) = self.submit(prompt, tokens_max) else { return Kind::Refused.note() };
        let mut tokens = Vec::new();
        let end = loop {
            match future::block_on(events.next()).expect("a terminal event comes before the end") {
                Event::Admitted | Event::Prefill { .. } => {}
                Event::Token(token) => tokens.push(token.id),
                end @ (Event::Finished(_) | Event::Failed(_)) => break end,
            }
        };
        assert_eq!(future::block_on(events.next()), None, "nothing follows the terminal event");
        let all = expected(prompt, tokens_max);
        match end {
            Event::Finished(_) => {
                Kind::Finished.note();
                assert_eq!(tokens, all);
            }
            Event::Failed(Failure::Row(_)) => {
                Kind::RowFailed.note();
                assert!(prompt.contains(&POISON));
            }
            Event::Failed(Failure::EngineDead(reason)) => {
                Kind::EngineDead.note();
                assert!(self.fatal && reason.contains("the device is gone"), "{reason}");
                assert_eq!(
                    self.lifecycle.phase.now(),
                    Phase::Dead,
                    "whoever is told finds no server that claims to live"
                );
                assert!(all.starts_with(&tokens));
            }
            Event::Failed(Failure::ShuttingDown) => {
                Kind::ShuttingDown.note();
                assert_eq!(self.lifecycle.phase.now(), Phase::Draining);
                assert!(all.starts_with(&tokens));
            }
            other => panic!("{other:?} is no end here"),
        }
    }

    /// Submits, reads a little and leaves.
    fn leave(&self, prompt: &[u32], events_read: usize) {
        let Some(mut events) = self.submit(prompt, 6) else { return };
        (0..events_read).for_each(|_| drop(future::block_on(events.next())));
    }

    /// Stops at some moment: one that the scheduler chooses, or a later one, when it has let others go first.
    fn stop(&self) {
        if thread_rng().gen_ratio(2, 3) {
            thread::yield_now();
        }
        self.lifecycle.phase.advance(Phase::Draining);
        self.handle.stop();
    }
}

/// One schedule: two who ask, one who leaves, one who stops, and the loop.
fn meet() {
    let lifecycle = Lifecycle::new();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (commands, inbox) = channel::commands(QUEUE_JOBS_MAX);
    let shared = Arc::new(Shared::new(QUEUE_JOBS_MAX));
    let oracle = Oracle {
        rows: BTreeMap::new(),
        rows_max: ROWS_MAX,
        seen: Arc::clone(&seen),
        gate: None,
        proved: true,
        at_once: 1,
    };
    let inference = Inference::new(oracle, ROWS_MAX, inbox, Arc::clone(&lifecycle), Arc::clone(&shared));
    shared.capacity.set(inference.capacity()).expect("set once");
    lifecycle.phase.advance(Phase::Ready);
    let handle = Handle::new(commands, Arc::clone(&lifecycle), shared);

    let chance = |one_in: u32| thread_rng().gen_ratio(1, one_in);
    let world = World { handle, lifecycle: Arc::clone(&lifecycle), fatal: chance(4) };
    let second = if world.fatal {
        FATAL
    } else if chance(4) {
        POISON
    } else {
        9
    };
    let events_read = thread_rng().gen_range(0..5);
    let act = |act: Box<dyn FnOnce(World) + Send>| {
        let world = world.clone();
        thread::spawn(move || act(world))
    };
    let threads = [
        thread::spawn(move || inference.run_to_end()),
        act(Box::new(|world| [[1, 2, 3, 4, 5].as_slice(), &[6]].iter().for_each(|prompt| world.ask(prompt, 3)))),
        act(Box::new(move |world| [[7, second], [8, 8]].iter().for_each(|prompt| world.ask(prompt, 2)))),
        act(Box::new(move |world| world.leave(&[4; 9], events_read))),
        act(Box::new(|world| world.stop())),
    ];
    for thread in threads {
        thread.join().expect("a thread that panics ends the test");
    }
    let pulse = lifecycle.heartbeat.pulse();
    assert_eq!((pulse.queued, pulse.running), (0, 0), "nobody waits or runs when the loop has ended");
    let seen = seen.lock().expect("no test panics with it");
    assert!(seen.closed <= seen.opened);
}

#[test]
fn v3_every_accepted_job_has_one_end_whoever_asks_leaves_and_stops_when() {
    let schedules =
        std::env::var("SANCTUM_MLX_TRIALS").map_or(SCHEDULES, |count| count.parse().expect("a number of trials"));
    let mut config = Config::default();
    config.stack_size = STACK_BYTES;
    under(schedule, || {
        Runner::new(PctScheduler::new(DEPTH, schedules), config).run(meet);
    });
    let met = MET.each_ref().map(|count| count.load(Ordering::Relaxed));
    println!("finished, its row failed, engine dead, shutting down, refused: {met:?}");
    assert!(met.iter().all(|count| *count > 0), "every kind of end was met: {met:?}");
    println!("V3, {schedules} trials run, {schedules} trials promised");
}
