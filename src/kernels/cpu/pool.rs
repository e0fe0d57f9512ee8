//! A few threads that share one piece of work at a time. The caller does half of it itself and never waits for a thread to
//! wake up: parts that nobody has taken are the caller's.
//!
//! Each thread begins with a run of neighbouring parts, so that it reads memory in order, and then helps the others. Which
//! thread computes a part changes nothing in the result: parts write disjoint places, and a part's own order is fixed.
//! A helper looks for work for [`SPIN`] and then sleeps, so that an idle server takes no time.

use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, Thread};

use parking_lot::Mutex;

/// Rounds that a helper looks for work before it sleeps; some tens of microseconds, longer than the gap between two
/// kernels of one step and far shorter than the gap between two steps of a slow client.
const SPIN: u32 = 4_000;
/// Rounds that the caller waits for a helper's last part before it lets others run.
const SPIN_BEFORE_YIELD: u32 = 10_000;
/// Threads beyond these wait for memory.
const THREADS_MAX: usize = 16;
/// Most parts of one piece of work: what a cursor has room for.
pub(super) const PARTS_MAX: usize = 1 << 15;

/// The work of one call: a function of the part's number.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// Its own cache line, so that taking a part disturbs only who takes from the same run.
#[repr(align(128))]
struct Cursor(AtomicU64);

/// Threads of the process, started at first use.
pub(super) struct Pool {
    /// One piece of work at a time; whoever finds it held works alone.
    turn: Mutex<()>,
    /// One run of parts for each thread: generation (32 bits), end (16), next (16).
    cursors: Vec<Cursor>,
    /// Counts pieces of work; helpers look at it.
    generation: AtomicU32,
    /// Parts done.
    done: AtomicU32,
    /// A part has panicked.
    failed: AtomicBool,
    /// Helpers asleep.
    asleep: AtomicU32,
    /// Written before a generation begins, read only by holders of one of its parts.
    work: UnsafeCell<Option<Work<'static>>>,
    helpers: OnceLock<Vec<Thread>>,
}

// SAFETY: `work` is written by the holder of `turn` while no part is out, and read by holders of a part.
unsafe impl Sync for Pool {}

/// The pool of this process, with a thread for each core.
pub(super) fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    static START: std::sync::Once = std::sync::Once::new();
    let pool = POOL.get_or_init(|| {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Pool::of(cores.min(THREADS_MAX))
    });
    START.call_once(|| pool.start());
    pool
}

impl Pool {
    fn of(threads: usize) -> Self {
        Self {
            turn: Mutex::new(()),
            cursors: (0..threads).map(|_| Cursor(AtomicU64::new(0))).collect(),
            generation: AtomicU32::new(0),
            done: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            asleep: AtomicU32::new(0),
            work: UnsafeCell::new(None),
            helpers: OnceLock::new(),
        }
    }

    /// Starts the helpers. Where a thread is refused, the others do its work.
    fn start(&'static self) {
        let helpers = (1..self.cursors.len()).filter_map(|index| {
            let builder = thread::Builder::new().name(format!("kernel-{index}"));
            builder.spawn(move || self.help(index)).ok().map(|handle| handle.thread().clone())
        });
        let _ = self.helpers.set(helpers.collect()); // Only `pool` starts, once.
    }

    /// Threads that share the work.
    pub(super) fn threads(&self) -> usize {
        self.cursors.len()
    }

    /// Calls `work` once for each of `0..parts`, on several threads at once.
    ///
    /// # Panics
    /// A part panicked, on whatever thread; after all others are done.
    pub(super) fn run(&self, parts: usize, work: Work<'_>) {
        assert!(parts <= PARTS_MAX, "a caller cuts its work into at most {PARTS_MAX} parts");
        let turn = if parts > 1 { self.turn.try_lock() } else { None };
        let Some(_turn) = turn.filter(|_| self.cursors.len() > 1) else { return (0..parts).for_each(work) };
        let generation = self.begin(parts, work);
        self.take_parts(0, generation);
        let mut rounds = 0;
        while self.done.load(Ordering::Acquire) < parts as u32 {
            rounds += 1;
            if rounds < SPIN_BEFORE_YIELD { std::hint::spin_loop() } else { thread::yield_now() }
        }
        assert!(!self.failed.swap(false, Ordering::Relaxed), "a kernel panicked on a helper thread");
    }

    /// Publishes a piece of work and wakes who sleeps.
    fn begin(&self, parts: usize, work: Work<'_>) -> u32 {
        // SAFETY: only the lifetime changes. `run` returns after every part is done, and nobody calls `work` but the
        // holder of a part.
        let work = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        // SAFETY: all parts of the last generation are done, so nobody reads.
        unsafe { *self.work.get() = Some(work) };
        self.done.store(0, Ordering::Relaxed);
        let generation = self.generation.load(Ordering::Relaxed).wrapping_add(1);
        let threads = self.cursors.len();
        for (index, cursor) in self.cursors.iter().enumerate() {
            let (first, end) = (index * parts / threads, (index + 1) * parts / threads);
            let word = u64::from(generation) << 32 | (end as u64) << 16 | first as u64;
            cursor.0.store(word, Ordering::Release);
        }
        self.generation.store(generation, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.helpers.get().into_iter().flatten().for_each(Thread::unpark);
        }
        generation
    }

    /// Does parts of a generation until none is left, those of cursor `own` first.
    fn take_parts(&self, own: usize, generation: u32) {
        let threads = self.cursors.len();
        for cursor in (0..threads).map(|step| &self.cursors[(own + step) % threads].0) {
            while let Some(part) = take(cursor, generation) {
                // SAFETY: this thread holds a part of the generation, so the work stays until it is counted as done.
                let work = unsafe { (*self.work.get()).expect("a generation has work") };
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(part))).is_err() {
                    self.failed.store(true, Ordering::Relaxed);
                }
                self.done.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// The life of a helper.
    fn help(&self, index: usize) {
        let mut seen = 0;
        loop {
            let mut generation = self.generation.load(Ordering::Acquire);
            let mut rounds = 0;
            while generation == seen {
                rounds += 1;
                if rounds < SPIN {
                    std::hint::spin_loop();
                } else {
                    self.sleep(seen);
                }
                generation = self.generation.load(Ordering::Acquire);
            }
            seen = generation;
            self.take_parts(index, generation);
        }
    }

    fn sleep(&self, seen: u32) {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        // Either this sees the new generation, or `begin` sees the sleeper.
        if self.generation.load(Ordering::SeqCst) == seen {
            thread::park();
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The next part of a cursor, if it still belongs to the generation and has one.
fn take(cursor: &AtomicU64, generation: u32) -> Option<usize> {
    let mut word = cursor.load(Ordering::Acquire);
    loop {
        let (next, end) = (word & 0xffff, word >> 16 & 0xffff);
        if (word >> 32) as u32 != generation || next >= end {
            return None;
        }
        match cursor.compare_exchange_weak(word, word + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(next as usize),
            Err(now) => word = now,
        }
    }
}

/// Runs `f` while the pool of the process is held, so that whoever else asks for it works alone.
#[cfg(test)]
pub(super) fn alone<R>(f: impl FnOnce() -> R) -> R {
    let _turn = pool().turn.lock();
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_whoever_does_it() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::of(4)));
        pool.start();
        for parts in (0..200).chain([1000, PARTS_MAX]) {
            let counts: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
            pool.run(parts, &|part| {
                counts[part].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{parts} parts");
        }
    }

    #[test]
    fn callers_at_the_same_time_do_not_wait_for_each_other() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::of(2)));
        pool.start();
        // The inner call finds the pool held and works alone.
        let total = AtomicU32::new(0);
        pool.run(8, &|_| {
            pool.run(5, &|part| {
                total.fetch_add(part as u32, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 8 * 10);
    }

    #[test]
    fn a_part_that_panics_is_told_after_the_others_are_done() {
        let pool: &'static Pool = Box::leak(Box::new(Pool::of(2)));
        pool.start();
        let done = AtomicU32::new(0);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(10, &|part| {
                assert_ne!(part, 3, "injected");
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert!(outcome.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 9);
        pool.run(2, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 11);
    }
}
