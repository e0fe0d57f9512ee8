//! The engine on a backend that computes a known function of the prompt, so that a wrong token fails a test and not only
//! a wrong count. Steps are let through a gate, so that no test depends on time.

mod interleaved;
mod probes;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::engine::backend::{Ask, Backend, Capacity, Decoded, DeviceFault, Memory, RowId};
use crate::engine::handle::{Events, Handle, Refusal};
use crate::engine::{Engine, EngineSettings, seam};
use crate::job::{Event, Failure, Finish, Job, Limits, Sampling};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::phase::Phase;

const WIDTH: u32 = 1_000;
const CHUNK: u32 = 4;
/// A chunk that rows wait for.
const CHUNK_BESIDE_DECODE: u32 = 2;
/// A token that makes a row fail.
const POISON: u32 = 666;
/// A token that panics the backend.
const BOMB: u32 = 667;
/// A token that ends the device.
const FATAL: u32 = 668;

/// Token number `index` of the answer to `prompt`.
fn oracle(prompt: &[u32], index: u32) -> u32 {
    let sum = prompt.iter().fold(u64::from(index) * 31 + 7, |sum, token| sum.wrapping_mul(131) + u64::from(*token));
    u32::try_from(sum % 600).expect("below 600")
}

/// What the backend was asked for.
#[derive(Debug, Default)]
struct Seen {
    opened: u32,
    closed: u32,
    steps: u32,
    /// The sizes of all chunks.
    chunks: Vec<u32>,
}

struct Oracle {
    rows: BTreeMap<RowId, (Vec<u32>, u32, u32)>,
    rows_max: u32,
    /// Tokens that a step gives a row; it knows nothing of limits and stop tokens.
    at_once: u32,
    seen: Arc<Mutex<Seen>>,
    /// When given, each step waits for one token from it; a closed gate lets everything through.
    gate: Option<Receiver<()>>,
    /// The start-up token is not gated.
    proved: bool,
}

impl Oracle {
    fn step(&self) {
        seam::cross();
        self.seen.lock().expect("no test panics with it").steps += 1;
        if let Some(gate) = self.gate.as_ref().filter(|_| self.proved) {
            let _ = gate.recv();
        }
    }
}

impl Backend for Oracle {
    fn capacity(&self) -> Capacity {
        Capacity {
            context_tokens: 4_096,
            logit_width: WIDTH,
            rows_max: self.rows_max,
            prefill_chunk_tokens: CHUNK,
            memory: Memory::UNCOUNTED,
        }
    }

    fn open(&mut self, row: RowId, ask: Ask<'_>) {
        assert!(u32::try_from(self.rows.len()).expect("few") < self.rows_max, "no more rows than the backend takes");
        self.seen.lock().expect("no test panics with it").opened += 1;
        let left = u32::try_from(ask.prompt.len()).expect("short");
        assert!(self.rows.insert(row, (ask.prompt.to_vec(), left, 0)).is_none(), "a row is opened once");
    }

    fn begin(&mut self, row: RowId) -> Result<u32, DeviceFault> {
        assert!(self.rows.contains_key(&row), "an open row");
        Ok(0)
    }

    fn prefill(&mut self, row: RowId, tokens: u32) -> Result<u32, DeviceFault> {
        self.step();
        self.seen.lock().expect("no test panics with it").chunks.push(tokens);
        let (prompt, left, _) = self.rows.get_mut(&row).expect("an open row");
        assert!(!prompt.contains(&BOMB), "the bomb went off");
        if prompt.contains(&FATAL) {
            return Err(DeviceFault("the device is gone".to_owned()));
        }
        *left -= tokens.min(*left);
        Ok(*left)
    }

    fn chunk_tokens_beside_decode(&self) -> u32 {
        CHUNK_BESIDE_DECODE
    }

    fn decode(&mut self, rows: &[RowId]) -> Result<Vec<Decoded>, DeviceFault> {
        self.step();
        let at_once = self.at_once;
        let one = |row: &RowId, rows: &mut BTreeMap<RowId, (Vec<u32>, u32, u32)>| {
            let (prompt, left, produced) = rows.get_mut(row).expect("an open row");
            assert_eq!(*left, 0, "only complete prompts decode");
            if prompt.contains(&POISON) {
                return Decoded::Failed("poison".to_owned());
            }
            let before = *produced;
            *produced += at_once;
            Decoded::Tokens((before..*produced).map(|index| oracle(prompt, index).into()).collect())
        };
        Ok(rows.iter().map(|row| one(row, &mut self.rows)).collect())
    }

    fn close(&mut self, row: RowId) {
        self.proved = true;
        self.seen.lock().expect("no test panics with it").closed += 1;
        assert!(self.rows.remove(&row).is_some(), "a row is closed once");
    }

    fn kept_bytes(&self) -> u64 {
        0
    }

    fn shed(&mut self, _: u64) {}

    fn idle(&mut self) {
        assert!(self.rows.is_empty(), "idle means that no row is open");
    }
}

struct Rig {
    handle: Handle,
    lifecycle: Arc<Lifecycle>,
    seen: Arc<Mutex<Seen>>,
    gate: Option<Sender<()>>,
    runtime: tokio::runtime::Runtime,
    ended: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl Rig {
    fn new(queue_jobs_max: u32, rows_max: u32, gated: bool) -> Self {
        Self::stepping(queue_jobs_max, rows_max, gated, 1)
    }

    /// A rig whose rows get so many tokens a step.
    fn stepping(queue_jobs_max: u32, rows_max: u32, gated: bool, at_once: u32) -> Self {
        let lifecycle = Lifecycle::new();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (sender, receiver) = channel();
        let backend = Oracle {
            rows: BTreeMap::new(),
            rows_max,
            at_once,
            seen: Arc::clone(&seen),
            gate: gated.then_some(receiver),
            proved: false,
        };
        let settings = EngineSettings { queue_jobs_max, rows_max };
        let engine = Engine::start(settings, Arc::clone(&lifecycle), move |_| Ok(backend)).expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(engine.started).expect("told").expect("started");
        Self {
            handle: engine.handle,
            lifecycle,
            seen,
            gate: gated.then_some(sender),
            runtime,
            ended: Some(engine.ended),
        }
    }

    fn submit(&self, prompt: &[u32], tokens_max: u32) -> Result<Events, Refusal> {
        self.submit_until(prompt, tokens_max, Instant::now() + Duration::from_secs(600))
    }

    fn submit_until(&self, prompt: &[u32], tokens_max: u32, queue_deadline: Instant) -> Result<Events, Refusal> {
        self.handle.submit(job(&self.handle, prompt, tokens_max, queue_deadline))
    }

    fn submit_stopping(&self, prompt: &[u32], tokens_max: u32, stop_token: u32) -> Result<Events, Refusal> {
        let mut job = job(&self.handle, prompt, tokens_max, Instant::now() + Duration::from_secs(600));
        job.limits.stop_tokens.push(stop_token);
        self.handle.submit(job)
    }

    /// Lets one step through.
    fn step(&self) {
        self.gate.as_ref().expect("a gated rig").send(()).expect("the backend lives");
    }

    fn next(&self, events: &mut Events) -> Option<Event> {
        self.runtime.block_on(events.next())
    }

    /// All tokens and the terminal event.
    fn finish(&self, events: &mut Events) -> (Vec<u32>, Event) {
        let mut tokens = Vec::new();
        loop {
            match self.next(events).expect("a terminal event comes before the end") {
                Event::Admitted | Event::Prefill { .. } => {}
                Event::Token(token) => tokens.push(token.id),
                end @ (Event::Finished(_) | Event::Failed(_)) => return (tokens, end),
            }
        }
    }

    fn stop(mut self) -> (u32, u32, u32) {
        self.handle.stop();
        drop(self.gate.take());
        self.runtime.block_on(self.ended.take().expect("stopped once")).expect("the thread ends");
        let seen = self.seen.lock().expect("no test panics with it");
        (seen.opened, seen.closed, seen.steps)
    }
}

fn job(handle: &Handle, prompt: &[u32], tokens_max: u32, queue_deadline: Instant) -> Job {
    Job {
        id: handle.next_id(),
        prompt: prompt.to_vec(),
        scope: Arc::from(""),
        bucket: None,
        sampling: Sampling::greedy(),
        constraint: None,
        limits: Limits { tokens_max, stop_tokens: Vec::new(), queue_deadline },
    }
}

fn expected(prompt: &[u32], count: u32) -> Vec<u32> {
    (0..count).map(|index| oracle(prompt, index)).collect()
}

#[test]
fn a_job_gets_its_own_tokens_and_one_end() {
    let rig = Rig::new(4, 2, false);
    let mut events = rig.submit(&[5, 6, 7, 8, 9], 6).expect("room");
    let (tokens, end) = rig.finish(&mut events);
    assert_eq!(tokens, expected(&[5, 6, 7, 8, 9], 6));
    let Event::Finished(finished) = end else { panic!("{end:?}") };
    assert_eq!(finished.finish, Finish::Length);
    assert_eq!((finished.usage.prompt_tokens, finished.usage.completion_tokens), (5, 6));
    assert_eq!(rig.next(&mut events), None, "nothing follows the terminal event");
}

#[test]
fn what_a_step_gives_behind_a_limit_or_a_stop_token_is_no_part_of_the_answer() {
    let rig = Rig::stepping(4, 2, false, 4);
    let prompt = [5, 6, 7];
    let whole = expected(&prompt, 12);
    // Each limit and each stop token from the first to the last place of a step.
    for last in 1..=9_u32 {
        let mut events = rig.submit(&prompt, last).expect("room");
        let (tokens, end) = rig.finish(&mut events);
        let Event::Finished(finished) = end else { panic!("{end:?}") };
        assert_eq!((tokens.as_slice(), finished.finish), (&whole[..last as usize], Finish::Length));
        assert_eq!(finished.usage.completion_tokens, last);
        assert_eq!(rig.next(&mut events), None, "nothing follows the terminal event");

        let stop = whole[last as usize];
        assert!(!whole[..last as usize].contains(&stop), "a token that comes here first");
        let mut events = rig.submit_stopping(&prompt, 100, stop).expect("room");
        let (tokens, end) = rig.finish(&mut events);
        let Event::Finished(finished) = end else { panic!("{end:?}") };
        assert_eq!((tokens.as_slice(), finished.finish), (&whole[..last as usize], Finish::Stop));
        assert_eq!(finished.usage.completion_tokens, last + 1, "the stop token was produced too");
        assert_eq!(rig.next(&mut events), None, "nothing follows the terminal event");
    }
}

#[test]
fn o1_a_full_queue_refuses_at_once_and_nothing_is_lost() {
    let rig = Rig::new(3, 1, true);
    let mut running = rig.submit(&[1], 1).expect("room");
    assert_eq!(rig.next(&mut running), Some(Event::Admitted));
    let mut waiting: Vec<Events> = (0..3).map(|index| rig.submit(&[2 + index], 1).expect("room")).collect();
    for _ in 0..30 {
        assert!(matches!(rig.submit(&[9], 1), Err(Refusal::QueueFull { retry_after_seconds: 1..=60 })));
    }
    (0..8).for_each(|_| rig.step());
    assert_eq!(rig.finish(&mut running).0, expected(&[1], 1));
    for (index, events) in (0_u32..).zip(&mut waiting) {
        assert_eq!(rig.finish(events).0, expected(&[2 + index], 1));
    }
}

#[test]
fn o2_a_job_past_its_queue_deadline_is_refused_without_a_step() {
    let rig = Rig::new(3, 1, true);
    let mut running = rig.submit(&[1], 1).expect("room");
    assert_eq!(rig.next(&mut running), Some(Event::Admitted));
    let mut late = rig.submit_until(&[2], 1, Instant::now()).expect("room");
    (0..2).for_each(|_| rig.step());
    assert_eq!(rig.finish(&mut late), (Vec::new(), Event::Failed(Failure::QueueTimeout)));
    assert_eq!(rig.finish(&mut running).0, expected(&[1], 1));
    let (opened, closed, steps) = rig.stop();
    assert_eq!((opened, closed), (2, 2), "the start-up token's row and the first job's");
    assert_eq!(steps, 4, "two for the start-up token, two for the first job");
}

#[test]
fn o3_a_dropped_reader_frees_its_row_within_one_step_running_or_waiting() {
    let rig = Rig::new(3, 1, true);
    let mut leaves = rig.submit(&[1], 1_000).expect("room");
    assert_eq!(rig.next(&mut leaves), Some(Event::Admitted));
    (0..4).for_each(|_| rig.step());
    assert_eq!(rig.next(&mut leaves), Some(Event::Prefill { cached_tokens: 0 }));
    for index in 0..3 {
        assert_eq!(rig.next(&mut leaves), Some(Event::Token(oracle(&[1], index).into())));
    }
    let waiting = rig.submit(&[2], 5).expect("room");
    let mut stays = rig.submit(&[3], 2).expect("room");
    drop((leaves, waiting));
    // At most one step was under way for the one who left; then the other's prefill and two tokens.
    (0..4).for_each(|_| rig.step());
    assert_eq!(rig.finish(&mut stays).0, expected(&[3], 2));
    let (opened, closed, steps) = rig.stop();
    assert_eq!((opened, closed), (3, 3), "the one who left while waiting was never opened");
    assert!(steps <= 2 + 4 + 1 + 3, "{steps} steps");
}

#[test]
fn o4_a_reader_dropped_during_the_prefill_costs_one_more_chunk_at_most() {
    let mut rig = Rig::new(3, 1, true);
    let mut leaves = rig.submit(&[1; 10 * CHUNK as usize], 5).expect("room");
    assert_eq!(rig.next(&mut leaves), Some(Event::Admitted));
    assert_eq!(rig.next(&mut leaves), Some(Event::Prefill { cached_tokens: 0 }));
    // The first chunk is at the gate; three pass, and the fourth is at the gate when the reader leaves.
    (0..3).for_each(|_| rig.step());
    let steps = || rig.seen.lock().expect("no test panics with it").steps;
    while steps() < 2 + 4 {
        std::thread::yield_now();
    }
    drop(leaves);
    let mut stays = rig.submit(&[3], 2).expect("room");
    drop(rig.gate.take());
    assert_eq!(rig.finish(&mut stays).0, expected(&[3], 2));
    let (opened, closed, steps) = rig.stop();
    assert_eq!((opened, closed), (3, 3));
    assert_eq!(steps, 2 + 4 + 3, "the start-up token, four of ten chunks, and the other job");
}

#[test]
fn a_chunk_that_rows_wait_for_has_the_size_that_the_backend_says_and_another_the_full_one() {
    let mut rig = Rig::new(3, 2, true);
    let mut decodes = rig.submit(&[1], 1_000).expect("room");
    assert_eq!(rig.next(&mut decodes), Some(Event::Admitted));
    (0..2).for_each(|_| rig.step());
    let mut beside = rig.submit(&[2; 2 * CHUNK as usize], 1).expect("room");
    (0..16).for_each(|_| rig.step());
    assert_eq!(rig.finish(&mut beside).0, expected(&[2; 2 * CHUNK as usize], 1));
    drop(decodes);
    drop(rig.gate.take());
    let mut alone = rig.submit(&[3; 2 * CHUNK as usize], 1).expect("room");
    assert_eq!(rig.finish(&mut alone).0, expected(&[3; 2 * CHUNK as usize], 1));
    let chunks = std::mem::take(&mut rig.seen.lock().expect("no test panics with it").chunks);
    // The start-up token and the first row's prompt, then eight tokens each.
    assert_eq!(chunks, [CHUNK, 1, 2, 2, 2, 2, 4, 4]);
    rig.stop();
}

#[test]
fn e5_a_row_that_fails_ends_alone() {
    let rig = Rig::new(8, 4, false);
    let mut bystander = rig.submit(&[10, 11], 50).expect("room");
    let mut poisoned = rig.submit(&[POISON], 50).expect("room");
    assert_eq!(rig.finish(&mut poisoned).1, Event::Failed(Failure::Row("poison".to_owned())));
    assert_eq!(rig.finish(&mut bystander).0, expected(&[10, 11], 50));
    assert_eq!(rig.lifecycle.phase.now(), Phase::Ready);
}

#[test]
fn e7_a_panic_fails_everyone_running_and_waiting_and_the_phase_is_dead() {
    let rig = Rig::new(8, 2, true);
    let mut running = rig.submit(&[1], 1_000).expect("room");
    assert_eq!(rig.next(&mut running), Some(Event::Admitted));
    let mut bomb = rig.submit(&[BOMB], 5).expect("room");
    let mut waiting = rig.submit(&[2], 5).expect("room");
    (0..8).for_each(|_| rig.step());
    for events in [&mut running, &mut bomb, &mut waiting] {
        let (_, end) = rig.finish(events);
        let Event::Failed(Failure::EngineDead(reason)) = end else { panic!("{end:?}") };
        assert!(reason.contains("the bomb went off"), "{reason}");
    }
    assert_eq!(rig.lifecycle.phase.now(), Phase::Dead);
    assert!(matches!(rig.submit(&[1], 1), Err(Refusal::NotReady(Phase::Dead))));
    let handle = rig.handle.clone();
    rig.stop();
    assert_eq!(handle.queue_depth(), 0, "whoever waited has left the queue");
}

#[test]
fn a_dead_process_tells_readers_even_while_the_thread_hangs() {
    let rig = Rig::new(8, 1, true);
    let mut hung = rig.submit(&[1], 5).expect("room");
    assert_eq!(rig.next(&mut hung), Some(Event::Admitted));
    rig.lifecycle.die("no progress for 60.0 s after decode_step");
    let (_, end) = rig.finish(&mut hung);
    assert!(matches!(end, Event::Failed(Failure::EngineDead(reason)) if reason.contains("no progress")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// O9 on the real thread: jobs of random lengths, some cancelled, some poisoned, on one to five rows that get one to
    /// four tokens a step.
    #[test]
    fn every_accepted_job_gets_its_own_tokens_and_exactly_one_end(
        rows_max in 1_u32..5,
        at_once in 1_u32..5,
        jobs in prop::collection::vec((prop::collection::vec(0_u32..600, 1..12), 1_u32..20, 0_u8..10), 1..40),
    ) {
        let rig = Rig::stepping(16, rows_max, false, at_once);
        let mut accepted = Vec::new();
        for (prompt, tokens_max, fate) in jobs {
            let prompt = if fate == 0 { vec![POISON] } else { prompt };
            match rig.submit(&prompt, tokens_max) {
                Ok(events) if fate == 1 => drop(events),
                Ok(events) => accepted.push((prompt, tokens_max, events)),
                Err(refusal) => prop_assert!(matches!(refusal, Refusal::QueueFull { .. }), "{refusal:?}"),
            }
        }
        for (prompt, tokens_max, mut events) in accepted {
            let (tokens, end) = rig.finish(&mut events);
            if prompt.contains(&POISON) {
                prop_assert_eq!(end, Event::Failed(Failure::Row("poison".to_owned())));
            } else {
                prop_assert_eq!(tokens, expected(&prompt, tokens_max));
                prop_assert!(matches!(end, Event::Finished(_)));
            }
            prop_assert_eq!(rig.next(&mut events), None);
        }
        let handle = rig.handle.clone();
        let (opened, closed, _) = rig.stop();
        prop_assert_eq!(opened, closed);
        prop_assert_eq!(handle.queue_depth(), 0);
    }
}
