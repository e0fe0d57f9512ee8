//! The two channels of the engine: commands to the inference thread, and events back to whoever submitted a job. It owns
//! their bounds and the rule that a sender never waits: there is room for everything that may be sent, so a full channel
//! is a bug and a closed one is news. Each operation is a seam.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::engine::command::Command;
use crate::engine::seam;
use crate::job::Event;

/// Control commands that may stand in the channel besides one job for every place in the queue.
const COMMANDS_BESIDE_JOBS: usize = 4;
/// Events besides tokens: admission, prefill and the terminal one.
const EVENTS_BESIDE_TOKENS: usize = 3;

/// Room for a job in every place of the queue, which is taken first, and for a few commands beside.
pub(crate) fn commands(queue_jobs_max: u32) -> (Commands, Inbox) {
    let (sender, receiver) = sync_channel(queue_jobs_max as usize + COMMANDS_BESIDE_JOBS);
    (Commands(sender), Inbox(receiver))
}

/// Room for everything that a job of so many tokens can tell.
pub(crate) fn events(tokens_max: u32) -> (EventSender, EventReceiver) {
    let (sender, receiver) = mpsc::channel(tokens_max as usize + EVENTS_BESIDE_TOKENS);
    (EventSender(sender), EventReceiver(receiver))
}

/// The way to the inference thread.
#[derive(Debug, Clone)]
pub(crate) struct Commands(SyncSender<Command>);

/// Nobody reads at the other end any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left;

impl Commands {
    /// Sends; a command that is not taken is dropped with all it holds.
    pub(crate) fn send(&self, command: Command) -> Result<(), Left> {
        seam::cross();
        match self.0.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(Left),
            // There is one probe at most, so those that fill the places beside the jobs are all of the other kind, and it is
            // for nothing: the thread was told to stop.
            Err(TrySendError::Full(Command::Probe(_))) => Err(Left),
            // More than one job for each place there cannot be, so the same stands there already.
            Err(TrySendError::Full(Command::Stop)) => Ok(()),
            Err(TrySendError::Full(Command::Submit(_))) => {
                unreachable!("the channel has room for every place in the queue")
            }
        }
    }
}

/// The commands that the inference thread has not heard.
#[derive(Debug)]
pub(crate) struct Inbox(Receiver<Command>);

impl Inbox {
    pub(crate) fn try_recv(&self) -> Result<Command, TryRecvError> {
        seam::cross();
        self.0.try_recv()
    }

    pub(crate) fn recv_timeout(&self, time: Duration) -> Result<Command, RecvTimeoutError> {
        self.0.recv_timeout(seam::patience(time))
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // What was sent until here and not heard is dropped with it.
        seam::cross();
    }
}

/// The engine's end of a job's events.
#[derive(Debug)]
pub(crate) struct EventSender(mpsc::Sender<Event>);

impl EventSender {
    pub(crate) fn send(&self, event: Event) -> Result<(), Left> {
        seam::cross();
        match self.0.try_send(event) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Left),
            Err(mpsc::error::TrySendError::Full(_)) => unreachable!("the channel has room for every event of the job"),
        }
    }

    /// Whether the reader has left.
    pub(crate) fn is_closed(&self) -> bool {
        seam::cross();
        self.0.is_closed()
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        seam::cross();
    }
}

/// The reader's end.
#[derive(Debug)]
pub(crate) struct EventReceiver(mpsc::Receiver<Event>);

impl EventReceiver {
    /// The next event; `None` when no other will come. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<Event> {
        seam::cross();
        self.0.recv().await
    }

    pub(crate) fn try_recv(&mut self) -> Result<Event, mpsc::error::TryRecvError> {
        seam::cross();
        self.0.try_recv()
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        seam::cross();
    }
}
