//! How long nobody answered: one short chat after the other, at every place where a server may be, for as long as a switch
//! takes. It owns what an answer is and what a gap is; it refuses to know what is switched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use crate::client::Client;
use crate::ops::look::{self, Seen};
use crate::ops::target::Target;

/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);
/// How long an answer is waited for before and after a switch.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Tokens of an answer.
const TOKENS: u32 = 16;

/// Someone who asks all the time.
pub(crate) struct Asking {
    over: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    /// Taken by [`Asking::end`].
    thread: Option<JoinHandle<Duration>>,
}

impl Asking {
    /// Begins to ask, and comes back after the first answer.
    ///
    /// # Errors
    /// Nobody answers, so that there is nothing to measure.
    pub(crate) fn begin(targets: &[Target], question: &str) -> anyhow::Result<Self> {
        let clients: Vec<Client> =
            targets.iter().map(|target| Ok(target.client(TRY_LIMIT)?)).collect::<anyhow::Result<_>>()?;
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let question = question.to_owned();
        let thread = std::thread::Builder::new().name("asking".to_owned()).spawn({
            let (over, answers) = (Arc::clone(&over), Arc::clone(&answers));
            move || ask(&clients, &question, &over, &answers)
        });
        let asking = Self { over, answers, thread: Some(thread.context("a thread")?) };
        if !asking.answered_beyond(0) {
            bail!("nobody answers a chat now: there is nothing to measure");
        }
        Ok(asking)
    }

    /// Stops after one more answer: the longest time between two of them.
    ///
    /// # Errors
    /// No further answer came.
    pub(crate) fn end(mut self) -> anyhow::Result<Duration> {
        let answered = self.answered_beyond(self.answers.load(Ordering::Acquire));
        self.over.store(true, Ordering::Release);
        let thread = self.thread.take().expect("it is taken here alone, and this is the end");
        let longest = thread.join().map_err(|_| anyhow!("a thread panicked"))?;
        if !answered {
            bail!("nobody answered a chat within {} s", ANSWER_LIMIT.as_secs());
        }
        Ok(longest)
    }

    fn answered_beyond(&self, count: u64) -> bool {
        let begun = Instant::now();
        while self.answers.load(Ordering::Acquire) <= count {
            if begun.elapsed() > ANSWER_LIMIT {
                return false;
            }
            std::thread::park_timeout(PAUSE);
        }
        true
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What it measured is nobody's any more.
            let _ = thread.join();
        }
    }
}

fn ask(clients: &[Client], question: &str, over: &AtomicBool, answers: &AtomicU64) -> Duration {
    let (mut last, mut longest) = (None::<Instant>, Duration::ZERO);
    while !over.load(Ordering::Acquire) {
        // A full queue is a server that works; anybody will do.
        let answered = |client: &Client| matches!(look::answer(client, question, TOKENS), Ok(_) | Err(Seen::Busy(_)));
        if clients.iter().any(answered) {
            let now = Instant::now();
            longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
            last = Some(now);
            answers.fetch_add(1, Ordering::AcqRel);
        }
        std::thread::park_timeout(PAUSE);
    }
    longest
}
