//! V2: the way down in every interleaving that loom can tell apart with at most three preemptions: the signal, the drain
//! timer, the engine and one who waits for an answer.
//!
//! The machines are those that ship: what a signal means (`Stop`), which phase follows which (`Step`), and the rule of
//! the drain (`WayDown`), with the orderings that ship. What stands around them is reduced to what it does at these seams: the engine ends a job or
//! fails it, the waiter is counted before it looks whether the drain has begun, the timer cuts. The engine's own loop is
//! modelled with its real code elsewhere (V3).

use std::sync::atomic::{self, Ordering};

use loom::sync::atomic::{AtomicU8, AtomicUsize};
use loom::sync::{Arc, Condvar, Mutex, mpsc};
use loom::thread;

use crate::lifecycle::drain::WayDown;
use crate::lifecycle::phase::{Phase, Step};
use crate::lifecycle::shared::Latch;
use crate::lifecycle::stop::{Action, Request, Stop};

/// Preemptions of one interleaving: threads also change wherever one has to wait.
const PREEMPTIONS_MAX: usize = 3;

/// Something that is said once, and those who wait for it: a token is made like this, and the select over several.
#[derive(Debug)]
struct Word<T> {
    said: Mutex<Option<T>>,
    changed: Condvar,
}

impl<T: Copy> Word<T> {
    fn new() -> Self {
        Self { said: Mutex::new(None), changed: Condvar::new() }
    }

    /// The first word stands.
    fn say(&self, word: T) {
        self.said.lock().expect("no model thread panics with it").get_or_insert(word);
        self.changed.notify_all();
    }

    fn wait(&self) -> T {
        let mut said = self.said.lock().expect("no model thread panics with it");
        loop {
            match *said {
                Some(word) => return word,
                None => said = self.changed.wait(said).expect("no model thread panics with it"),
            }
        }
    }
}

impl Latch for Word<()> {
    fn set(&self) {
        self.say(());
    }

    fn is_set(&self) -> bool {
        self.said.lock().expect("no model thread panics with it").is_some()
    }
}

/// What the waiter was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Its job is done.
    Finished,
    /// The engine was told to stop first, or the deadline passed.
    ShuttingDown,
    /// Refused before it was a job.
    Refused,
}

/// What the threads of one interleaving share.
struct World {
    stop: Stop<AtomicU8>,
    phase: Step<AtomicU8>,
    down: WayDown<Word<()>, AtomicUsize>,
    /// What the waiter reads: the engine's end of its job, or the cut, whichever comes first.
    told: Word<Told>,
}

/// A message to the engine.
enum Command {
    Submit,
    Stop,
}

/// Runs `model` in every interleaving; says how many there were.
fn every(model: impl Fn(Arc<World>) + Sync + Send + 'static) -> usize {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    let ran = std::sync::Arc::new(atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&ran);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model(Arc::new(World {
            stop: Stop::at_first(AtomicU8::new),
            phase: Step::first(AtomicU8::new),
            down: WayDown::new(Word::new, || AtomicUsize::new(0)),
            told: Word::new(),
        }));
    });
    ran.load(Ordering::Relaxed)
}

/// The engine: ready, then one job after the other until it is told to stop; whoever was not served is told.
fn engine(world: &World, commands: &mpsc::Receiver<Command>) {
    world.phase.advance(Phase::Ready);
    while let Ok(Command::Submit) = commands.recv() {
        world.told.say(Told::Finished);
    }
    while let Ok(Command::Submit) = commands.try_recv() {
        world.told.say(Told::ShuttingDown);
    }
}

/// A request: counted, then checked, then a job; its end is the engine's word or the cut.
fn request(world: &World, commands: &mpsc::Sender<Command>) -> Told {
    world.down.enter();
    let told = answer(world, commands);
    assert!(told == Told::Refused || !world.down.idle.is_set(), "nothing closes under a request that was let in");
    world.down.leave();
    told
}

fn answer(world: &World, commands: &mpsc::Sender<Command>) -> Told {
    if world.down.begun.is_set() || !world.phase.now().can_answer() {
        return Told::Refused;
    }
    commands.send(Command::Submit).expect("the engine lives while anyone is in flight");
    world.told.wait()
}

/// A signal, and what follows from the first: once nothing is in flight, the engine is told to stop. Says which phase that
/// one ended.
fn signal(world: &World, commands: &mpsc::Sender<Command>) -> Option<Phase> {
    if world.stop.request(Request::Terminate) == Action::Nothing {
        return None;
    }
    let was = world.phase.advance(Phase::Draining).expect("nobody else leaves");
    world.down.begin();
    world.down.idle.wait();
    commands.send(Command::Stop).expect("the engine lives until it is told to stop");
    Some(was)
}

/// What must hold when everyone has ended.
fn check_end(world: &World, was: Phase, told: Told) {
    assert_eq!(world.phase.now(), Phase::Draining, "a late start revives nothing");
    assert_eq!(world.down.in_flight(), 0);
    assert!(was == Phase::Ready || told == Told::Refused, "told {told:?} by a server that was {was}");
}

#[test]
fn v2_loom_a_drain_ends_with_everyone_told_whenever_its_deadline_and_the_last_job_come() {
    let ran = every(|world| {
        let (commands, heard) = mpsc::channel();
        let (theirs, there, then) = (Arc::clone(&world), Arc::clone(&world), Arc::clone(&world));
        let engine = thread::spawn(move || engine(&theirs, &heard));
        let asks = commands.clone();
        let waiter = thread::spawn(move || request(&there, &asks));
        let timer = thread::spawn(move || {
            then.down.begun.wait();
            then.down.cut();
            then.told.say(Told::ShuttingDown);
        });
        let was = signal(&world, &commands).expect("the only signal");
        let told = waiter.join().expect("it is told");
        timer.join().expect("it rings");
        engine.join().expect("it ends");
        check_end(&world, was, told);
    });
    println!("V2, every interleaving with at most {PREEMPTIONS_MAX} preemptions: {ran}");
}

#[test]
fn v2_loom_a_drain_without_a_deadline_ends_with_its_last_job_whichever_of_two_signals_is_first() {
    let ran = every(|world| {
        let (commands, heard) = mpsc::channel();
        let (theirs, there, other) = (Arc::clone(&world), Arc::clone(&world), Arc::clone(&world));
        let engine = thread::spawn(move || engine(&theirs, &heard));
        let (asks, tells) = (commands.clone(), commands.clone());
        let waiter = thread::spawn(move || request(&there, &asks));
        let second = thread::spawn(move || signal(&other, &tells));
        let first = signal(&world, &commands);
        let told = waiter.join().expect("it is told");
        let second = second.join().expect("it does not wait for ever");
        engine.join().expect("it ends");
        assert!(first.is_some() != second.is_some(), "one of them begins the drain");
        assert_ne!(told, Told::ShuttingDown, "nobody cuts what may finish");
        check_end(&world, first.or(second).expect("one of them"), told);
    });
    println!("V2, every interleaving with at most {PREEMPTIONS_MAX} preemptions: {ran}");
}
