//! From outcomes to figures: percentiles with the number of samples that each needs, throughput, goodput. It owns the
//! definitions, which are printed beside the figures; it refuses to know where samples come from.

use std::time::Duration;

use serde::Serialize;

use crate::ops::bench::answer::{Answer, Outcome};
use crate::ops::bench::load::{Loop, Stage};

/// Samples below which a 99th percentile would be the tale of a few.
const P99_SAMPLES_MIN: usize = 1_000;

/// What each figure means, as it is printed.
pub(super) const DEFINITIONS: [(&str, &str); 8] = [
    ("TTFT", "from sending a request, in an open loop from the moment at which it was due, to its first piece of text"),
    (
        "ITL",
        "each gap between two pieces of text (a token each, unless its text needs the next); all gaps of all answers",
    ),
    ("TPOT", "(time to the last piece of text - TTFT) / (tokens of the answer - 1), one figure an answer"),
    ("tokens/s", "tokens of all whole answers / wall time from the first request to the last piece of the last answer"),
    ("goodput", "whole answers a second that meet both objectives, over the same wall time"),
    ("refused", "answered with 429 or 503; failed: no whole answer, or not of the length that was asked for"),
    ("cached", "tokens of prompts that the server had computed before, as it says itself"),
    ("p99", "is told from 1,000 samples on; below that it is a dash"),
];

/// What a good answer keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Slo {
    /// Most milliseconds until the first piece of text.
    pub(super) ttft_ms: f64,
    /// Most milliseconds for each further token.
    pub(super) tpot_ms: f64,
}

impl Slo {
    fn is_met_by(self, answer: &Answer) -> bool {
        milliseconds(answer.first) <= self.ttft_ms && tpot_ms(answer) <= self.tpot_ms
    }
}

/// Order statistics of some samples, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    /// Samples.
    pub(super) n: usize,
    pub(super) p50: f64,
    pub(super) p90: f64,
    /// `None` with too few samples.
    pub(super) p99: Option<f64>,
}

impl Spread {
    /// `None` without samples.
    pub(super) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let n = samples.len();
        // The nearest rank: the smallest sample that so many of a hundred do not exceed.
        let rank = |percent: usize| samples.get((n * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { n, p50: rank(50)?, p90: rank(90)?, p99: rank(99).filter(|_| n >= P99_SAMPLES_MIN) })
    }
}

/// The figures of one loop.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    /// `closed` or `open`.
    #[serde(rename = "loop")]
    pub(super) kind: &'static str,
    /// Of a closed loop.
    pub(super) clients: Option<u32>,
    /// Of an open loop: requests a second.
    pub(super) rate: Option<f64>,
    pub(super) requests: usize,
    pub(super) answered: usize,
    pub(super) refused: usize,
    pub(super) failed: usize,
    pub(super) wall_seconds: f64,
    pub(super) completion_tokens: u64,
    pub(super) tokens_per_second: f64,
    pub(super) requests_per_second: f64,
    pub(super) goodput_per_second: f64,
    pub(super) ttft_ms: Option<Spread>,
    pub(super) itl_ms: Option<Spread>,
    pub(super) tpot_ms: Option<Spread>,
    /// How much later than due requests were sent: what the client itself adds.
    pub(super) late_ms: Option<Spread>,
    /// Least and most that the server counted in a prompt.
    pub(super) prompt_tokens: Option<(u32, u32)>,
    pub(super) prompt_tokens_sum: u64,
    pub(super) cached_tokens_sum: u64,
}

impl Figures {
    pub(super) fn of(kind: Loop, stage: &Stage, slo: Slo) -> Self {
        let answers: Vec<&Answer> = stage.answers().collect();
        let count = |wanted: fn(&Outcome) -> bool| stage.outcomes.iter().filter(|outcome| wanted(outcome)).count();
        let sum = |tokens: fn(&Answer) -> u32| answers.iter().map(|answer| u64::from(tokens(answer))).sum::<u64>();
        let spread = |figure: fn(&Answer) -> f64| Spread::of(answers.iter().map(|answer| figure(answer)).collect());
        let (name, clients, rate) = match kind {
            Loop::Closed { clients } => ("closed", Some(clients), None),
            Loop::Open { rate } => ("open", None, Some(rate)),
        };
        let seconds = stage.wall.as_secs_f64();
        let a_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let sizes = || answers.iter().map(|answer| answer.prompt_tokens);
        let completion_tokens = sum(|answer| answer.completion_tokens);
        Self {
            kind: name,
            clients,
            rate,
            requests: stage.outcomes.len(),
            answered: answers.len(),
            refused: count(|outcome| matches!(outcome, Outcome::Refused(_))),
            failed: count(|outcome| matches!(outcome, Outcome::Failed(_))),
            wall_seconds: seconds,
            completion_tokens,
            tokens_per_second: a_second(completion_tokens as f64),
            requests_per_second: a_second(answers.len() as f64),
            goodput_per_second: a_second(answers.iter().filter(|answer| slo.is_met_by(answer)).count() as f64),
            ttft_ms: spread(|answer| milliseconds(answer.first)),
            itl_ms: Spread::of(answers.iter().flat_map(|answer| &answer.gaps).map(|gap| milliseconds(*gap)).collect()),
            tpot_ms: spread(tpot_ms),
            late_ms: spread(|answer| milliseconds(answer.late)),
            prompt_tokens: sizes().min().zip(sizes().max()),
            prompt_tokens_sum: sum(|answer| answer.prompt_tokens),
            cached_tokens_sum: sum(|answer| answer.cached_tokens),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn tpot_ms(answer: &Answer) -> f64 {
    milliseconds(answer.last.saturating_sub(answer.first))
        / f64::from(answer.completion_tokens.saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLO: Slo = Slo { ttft_ms: 100.0, tpot_ms: 20.0 };

    fn answer(first: u64, last: u64) -> Answer {
        let [first, last] = [first, last].map(Duration::from_millis);
        Answer {
            late: Duration::ZERO,
            first,
            last,
            gaps: vec![(last - first) / 2; 2],
            prompt_tokens: 30,
            cached_tokens: 10,
            completion_tokens: 3,
            fingerprint: None,
        }
    }

    #[test]
    fn percentiles_are_nearest_ranks_and_the_last_one_needs_a_thousand_samples() {
        let spread = |n: u32| Spread::of((1..=n).rev().map(f64::from).collect());
        assert_eq!(spread(0), None);
        assert_eq!(spread(1), Some(Spread { n: 1, p50: 1.0, p90: 1.0, p99: None }));
        assert_eq!(spread(10), Some(Spread { n: 10, p50: 5.0, p90: 9.0, p99: None }));
        assert_eq!(spread(999).expect("samples").p99, None);
        assert_eq!(spread(1_000), Some(Spread { n: 1_000, p50: 500.0, p90: 900.0, p99: Some(990.0) }));
    }

    #[test]
    fn figures_count_what_happened_and_goodput_counts_what_was_good() {
        let outcomes = vec![
            Outcome::Answered(answer(100, 140)),
            Outcome::Answered(answer(101, 141)),
            Outcome::Answered(answer(50, 92)),
            Outcome::Refused(String::new()),
            Outcome::Failed(String::new()),
        ];
        let stage = Stage { outcomes, wall: Duration::from_secs(2) };
        let figures = Figures::of(Loop::Open { rate: 4.0 }, &stage, SLO);
        assert_eq!((figures.requests, figures.answered, figures.refused, figures.failed), (5, 3, 1, 1));
        assert_eq!((figures.completion_tokens, figures.tokens_per_second), (9, 4.5));
        assert_eq!(figures.requests_per_second, 1.5);
        assert_eq!(figures.goodput_per_second, 0.5, "one is too late, one too slow");
        assert_eq!(figures.itl_ms.expect("gaps").n, 6);
        assert_eq!(figures.tpot_ms.expect("answers").p50, 20.0);
        assert_eq!(
            (figures.prompt_tokens, figures.prompt_tokens_sum, figures.cached_tokens_sum),
            (Some((30, 30)), 90, 30)
        );
    }
}
