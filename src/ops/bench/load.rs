//! The two ways of asking. In a closed loop each client asks again when its answer is complete: that finds capacity. In an
//! open loop requests are due at moments that do not depend on the server, and times count from those moments, so that a
//! server that falls behind cannot hide it. It owns threads and moments; it refuses to know what figures are made of it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Builder, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::client::wire::{StreamOptions, StreamRequest};
use crate::ops::bench::answer::{self, Answer, Outcome};
use crate::ops::bench::prompt::{Chance, Prompts};
use crate::ops::target::Target;

/// Requests of an open loop that may be under way; half of the connections that our server takes. Beyond them requests
/// are sent late, which their times show.
const UNDER_WAY_MAX: usize = 256;
/// Numbers of prompts; none is used twice in a process.
static PROMPT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A way of asking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Loop {
    /// So many clients, each of which waits for its answers.
    Closed { clients: u32 },
    /// So many requests a second, by chance, whatever the server does.
    Open { rate: f64 },
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { clients: 1 } => f.write_str("1 client"),
            Self::Closed { clients } => write!(f, "{clients} clients"),
            Self::Open { rate } => write!(f, "{rate} requests/s"),
        }
    }
}

/// What is asked of whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) target: &'a Target,
    /// Most time for one answer.
    pub(super) timeout: Duration,
    pub(super) prompts: &'a Prompts,
    pub(super) model: &'a str,
    /// Of each answer.
    pub(super) tokens: u32,
}

/// What became of all requests of one loop.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) outcomes: Vec<Outcome>,
    /// From the beginning until the last answer is complete.
    pub(super) wall: Duration,
}

impl Stage {
    pub(super) fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Refused(_) | Outcome::Failed(_) => None,
        })
    }

    /// Why there is no answer to some request that the server had not refused.
    pub(super) fn first_failure(&self) -> Option<&str> {
        self.outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Failed(why) => Some(why.as_str()),
            Outcome::Answered(_) | Outcome::Refused(_) => None,
        })
    }
}

/// `clients` at once, each of which asks `requests` times.
pub(super) fn closed(plan: &Plan<'_>, clients: u32, requests: u32) -> anyhow::Result<Stage> {
    let asks = || -> anyhow::Result<Vec<Outcome>> {
        let client = plan.target.client(plan.timeout)?;
        Ok((0..requests).map(|_| answer::ask(&client, &plan.request(), Instant::now())).collect())
    };
    at_once(clients as usize, &asks)
}

/// Requests at `rate` a second for so many seconds, on as many connections as it takes.
pub(super) fn open(plan: &Plan<'_>, rate: f64, seconds: u32, seed: u64) -> anyhow::Result<Stage> {
    let moments = moments(rate, Duration::from_secs(u64::from(seconds)), seed);
    let next = AtomicU64::new(0);
    let begun = Instant::now();
    let asks = || -> anyhow::Result<Vec<Outcome>> {
        let client = plan.target.client(plan.timeout)?;
        let mut outcomes = Vec::new();
        while let Some(moment) = moments.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let (request, due) = (plan.request(), begun + *moment);
            wait_until(due);
            outcomes.push(answer::ask(&client, &request, due));
        }
        Ok(outcomes)
    };
    at_once(moments.len().min(UNDER_WAY_MAX), &asks)
}

impl Plan<'_> {
    /// A request that was never sent before.
    fn request(&self) -> StreamRequest {
        StreamRequest {
            model: self.model.to_owned(),
            messages: self.prompts.conversation(PROMPT_NUMBER.fetch_add(1, Ordering::Relaxed)),
            temperature: 0.0,
            max_completion_tokens: self.tokens,
            ignore_eos: true,
            stream: true,
            stream_options: StreamOptions { include_usage: true },
        }
    }
}

/// Runs `work` on so many threads and joins what they bring.
fn at_once(threads: usize, work: &(dyn Fn() -> anyhow::Result<Vec<Outcome>> + Sync)) -> anyhow::Result<Stage> {
    let begun = Instant::now();
    let outcomes = thread::scope(|scope| {
        let spawn = |_| Builder::new().name("bench client".to_owned()).spawn_scoped(scope, work);
        let running: Vec<ScopedJoinHandle<'_, _>> = (0..threads).map(spawn).collect::<Result<_, _>>()?;
        let mut outcomes = Vec::new();
        for thread in running {
            outcomes.extend(thread.join().expect("a client thread does not panic")?);
        }
        anyhow::Ok(outcomes)
    });
    Ok(Stage { outcomes: outcomes.context("the clients cannot run")?, wall: begun.elapsed() })
}

/// The moments of a Poisson process: the time from one to the next is exponential, and remembers nothing.
fn moments(rate: f64, within: Duration, seed: u64) -> Vec<Duration> {
    let mut chance = Chance::new(seed);
    let mut at = 0.0;
    let next = || {
        at -= chance.share().ln() / rate;
        Some(Duration::from_secs_f64(at))
    };
    std::iter::from_fn(next).take_while(|moment| *moment < within).collect()
}

/// Waits for a moment; nothing else could end it.
fn wait_until(due: Instant) {
    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_at_the_rate_in_order_and_alike_for_equal_seeds() {
        let hour = Duration::from_secs(3_600);
        let all = moments(5.0, hour, 7);
        assert!(all.is_sorted() && *all.last().expect("some") < hour);
        // Of 18,000 expected ones; the standard deviation is 134.
        assert!((17_400..18_600).contains(&all.len()), "{}", all.len());
        assert_eq!(all, moments(5.0, hour, 7));
        assert_ne!(all, moments(5.0, hour, 8));
    }

    #[test]
    fn the_times_between_moments_are_exponential() {
        let all = moments(2.0, Duration::from_secs(36_000), 1);
        let gaps: Vec<f64> = all.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let beyond = |seconds: f64| gaps.iter().filter(|gap| **gap > seconds).count() as f64 / gaps.len() as f64;
        for seconds in [0.25_f64, 0.5, 1.0, 2.0] {
            let expected = (-2.0 * seconds).exp();
            assert!((beyond(seconds) - expected).abs() < 0.01, "{seconds}: {} of {expected}", beyond(seconds));
        }
    }
}
