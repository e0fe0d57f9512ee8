//! Threads that work for a bounded time as far as the caller can tell: one that is late is left to itself, and there are
//! few of them, so what they still do is bounded too. It refuses to know what the work is.
//!
//! Invariant: a caller waits at most twice its limit, once for a free thread and once for the work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many threads compile. Compiling takes a millisecond or two; two, so that one hostile grammar delays nobody.
const THREADS: usize = 2;

/// How many callers may wait for a free thread; more are told at once that there is none.
const WAITING_MAX: usize = 16;

/// llguidance recurses along references and rules, which are limited to a thousand.
const STACK_BYTES: usize = 32 << 20;

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    /// No thread was free.
    Busy,
    /// The work took longer than its limit.
    Slow,
    /// The work panicked.
    Panicked,
}

/// How long a caller waits.
#[derive(Clone, Copy)]
struct Waits {
    /// For a free thread.
    thread: Duration,
    /// For the work, once it is begun.
    work: Duration,
}

/// What a thread is given.
type Work = Box<dyn FnOnce() + Send>;

/// What a caller hears.
enum News<T> {
    Begun,
    Done(T),
}

/// The threads. Dropping it waits for the work they have begun.
#[derive(Debug)]
pub struct Pool {
    /// `None` only while it is dropped, so that the threads see the end.
    work: Option<SyncSender<Work>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start() -> std::io::Result<Self> {
        let (work, inbox) = sync_channel(WAITING_MAX);
        let inbox = Arc::new(Mutex::new(inbox));
        let threads = (0..THREADS).map(|index| {
            let inbox = Arc::clone(&inbox);
            let name = format!("grammar-{index}");
            std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || serve(&inbox))
        });
        Ok(Self { work: Some(work), threads: threads.collect::<Result<_, _>>()? })
    }

    /// Runs `work` on one of the threads and waits for it. Blocks: it belongs on a thread that may.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        self.run_within(Waits { thread: limit, work: limit }, work)
    }

    fn run_within<T: Send + 'static>(
        &self,
        waits: Waits,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Late> {
        let (tell, news) = sync_channel(2);
        let task: Work = Box::new(move || {
            // The caller gave up while this waited: nobody would hear the result.
            if tell.send(News::Begun).is_err() {
                return;
            }
            let result = work();
            let _ = tell.send(News::Done(result));
        });
        let inbox = self.work.as_ref().expect("it is there until the pool is dropped");
        inbox.try_send(task).map_err(|_| Late::Busy)?;
        match news.recv_timeout(waits.thread) {
            Ok(News::Begun) => {}
            Ok(News::Done(_)) => unreachable!("work is begun before it is done"),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Err(Late::Busy),
        }
        match news.recv_timeout(waits.work) {
            Ok(News::Done(result)) => Ok(result),
            Ok(News::Begun) => unreachable!("work is begun once"),
            Err(RecvTimeoutError::Timeout) => Err(Late::Slow),
            Err(RecvTimeoutError::Disconnected) => Err(Late::Panicked),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            // Panics of the work are caught, so there is none to pass on.
            let _ = thread.join();
        }
    }
}

fn serve(inbox: &Mutex<Receiver<Work>>) {
    loop {
        // Nothing panics while it holds the lock, and a receiver has no state to spoil.
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!("a thread that compiles grammars panicked and goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Longer than any test runs.
    const PLENTY: Duration = Duration::from_mins(10);

    #[test]
    fn work_is_done_on_a_thread_of_the_pool() {
        let pool = Pool::start().expect("threads");
        let name = pool.run(PLENTY, || std::thread::current().name().map(str::to_owned));
        assert!(name.expect("a result").is_some_and(|name| name.starts_with("grammar-")));
    }

    #[test]
    fn a_panic_ends_the_work_and_not_the_pool() {
        let pool = Pool::start().expect("threads");
        for _ in 0..=THREADS {
            assert_eq!(pool.run(PLENTY, || -> u32 { panic!("on purpose") }), Err(Late::Panicked));
        }
        assert_eq!(pool.run(PLENTY, || 1), Ok(1));
    }

    #[test]
    fn late_work_is_left_to_itself_and_bounds_what_is_taken_on() {
        let pool = Pool::start().expect("threads");
        let mut gates = Vec::new();
        for _ in 0..THREADS {
            let (gate, closed) = sync_channel::<()>(0);
            gates.push(gate);
            let waits = Waits { thread: PLENTY, work: Duration::from_millis(1) };
            assert_eq!(pool.run_within(waits, move || closed.recv()), Err(Late::Slow));
        }
        let ran = Arc::new(AtomicBool::new(false));
        for _ in 0..=WAITING_MAX {
            let ran = Arc::clone(&ran);
            let waits = Waits { thread: Duration::ZERO, work: PLENTY };
            let late = pool.run_within(waits, move || ran.store(true, Ordering::SeqCst));
            assert_eq!(late, Err(Late::Busy), "every thread waits at its gate");
        }
        drop(gates);
        drop(pool);
        assert!(!ran.load(Ordering::SeqCst), "nobody waited for these any more");
    }
}
