//! How the process ends: its exit codes, and the thread that ends it at a deadline that needs nobody's co-operation. The
//! thread is a plain OS thread that waits for an order or the deadline; it touches no tokio, and no lock that the engine
//! or a request could hold. A deadline only ever moves to an earlier moment, so no number of signals can postpone it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::platform::process;

/// Orders that may wait while the thread is busy leaving; more are not needed and are dropped.
const ORDERS_MAX: usize = 64;
/// Flushing the logs may take this long, then the process ends without.
const FLUSH_LIMIT: Duration = Duration::from_millis(250);

/// What the exit status tells the supervisor; printed in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum ExitCode {
    /// Drained, or stopped while loading.
    Done = 0,
    /// The command line was not understood.
    Usage = 64,
    /// The inference engine died: panic, device error or stall.
    EngineDead = 70,
    /// The operating system refused something, a bind for example.
    OsError = 71,
    /// The drain deadline passed and the process was forced to end.
    Forced = 75,
    /// Configuration, certificate or model refused.
    Config = 78,
    /// Interrupted twice.
    Interrupted = 130,
}

/// What the exit thread is told.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    /// End at `deadline` at the latest, with this code. The earliest deadline given wins.
    By {
        /// When.
        deadline: Instant,
        /// How.
        code: ExitCode,
    },
    /// End now; an earlier `By` with `EngineDead` keeps its code.
    Now(ExitCode),
}

/// The way to the exit thread, and the orders until it runs.
#[derive(Debug)]
pub struct ExitOrders {
    sender: SyncSender<Order>,
    /// Taken by the thread when it starts.
    receiver: Mutex<Option<Receiver<Order>>>,
}

impl ExitOrders {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = sync_channel(ORDERS_MAX);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }

    /// Gives an order. Never waits; when 64 orders are waiting the process is already leaving.
    pub fn give(&self, order: Order) {
        let _ = self.sender.try_send(order);
    }

    /// Starts the thread that obeys. `flush` is told the code and runs before the end, for at most 250 ms.
    ///
    /// # Errors
    /// The system gives no thread.
    ///
    /// # Panics
    /// When called twice.
    pub fn start(&self, flush: impl FnOnce(ExitCode) + Send + 'static) -> std::io::Result<JoinHandle<()>> {
        let orders = self.receiver.lock().take().expect("the exit thread is started once");
        thread::Builder::new().name("exit".to_owned()).spawn(move || {
            let code = wait(&orders);
            flush_within(FLUSH_LIMIT, move || flush(code));
            process::exit_now(code as i32);
        })
    }
}

/// Waits for the end of the process and says how it ends.
fn wait(orders: &Receiver<Order>) -> ExitCode {
    let mut ends: Option<(Instant, ExitCode)> = None;
    loop {
        let order = match ends {
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((deadline, _)) => orders.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        match (order, ends) {
            (Ok(Order::By { deadline, code }), _) => ends = Some(earlier(ends, deadline, code)),
            (Ok(Order::Now(_)), Some((_, ExitCode::EngineDead))) => return ExitCode::EngineDead,
            (Ok(Order::Now(code)), _) => return code,
            (Err(RecvTimeoutError::Timeout), Some((_, code))) => return code,
            (Err(_), ends) => return ends.map_or(ExitCode::OsError, |(_, code)| code),
        }
    }
}

/// The earlier of two ends. A dead engine is the story even when a drain was already under way.
fn earlier(ends: Option<(Instant, ExitCode)>, deadline: Instant, code: ExitCode) -> (Instant, ExitCode) {
    let Some((first_deadline, first_code)) = ends else { return (deadline, code) };
    let story = if first_code == ExitCode::EngineDead || code == ExitCode::EngineDead {
        ExitCode::EngineDead
    } else {
        first_code
    };
    (first_deadline.min(deadline), story)
}

/// Runs `flush` on a thread of its own and leaves it behind when it hangs.
fn flush_within(limit: Duration, flush: impl FnOnce() + Send + 'static) {
    let (done, finished) = sync_channel(1);
    let flusher = thread::Builder::new().name("flush".to_owned()).spawn(move || {
        flush();
        let _ = done.send(());
    });
    if flusher.is_ok() {
        // A timeout means that the disk or a pipe hangs; the process ends all the same.
        let _ = finished.recv_timeout(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_after(orders: &[Order]) -> ExitCode {
        let (sender, receiver) = sync_channel(ORDERS_MAX);
        for order in orders {
            sender.send(*order).expect("room for the orders of a test");
        }
        drop(sender);
        wait(&receiver)
    }

    #[test]
    fn l6_the_first_deadline_stands_however_many_orders_follow() {
        let now = Instant::now();
        let first = (now + Duration::from_millis(10), ExitCode::Forced);
        for gap in 0..500 {
            assert_eq!(earlier(Some(first), now + Duration::from_millis(11 + gap), ExitCode::Forced), first);
        }
    }

    #[test]
    fn an_order_to_end_now_ends_with_its_code() {
        assert_eq!(code_after(&[Order::Now(ExitCode::Interrupted)]), ExitCode::Interrupted);
    }

    #[test]
    fn a_dead_engine_is_the_story_even_when_everything_else_ended_well() {
        let deadline = Instant::now() + Duration::from_secs(60);
        let dead = Order::By { deadline, code: ExitCode::EngineDead };
        assert_eq!(code_after(&[dead, Order::Now(ExitCode::Done)]), ExitCode::EngineDead);
    }

    #[test]
    fn a_deadline_that_passes_ends_the_process_without_anyone() {
        let (sender, receiver) = sync_channel(1);
        let past = Instant::now();
        sender.send(Order::By { deadline: past, code: ExitCode::Forced }).expect("room for one order");
        assert_eq!(wait(&receiver), ExitCode::Forced);
    }
}
