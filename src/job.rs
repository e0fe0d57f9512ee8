//! The words that `http` and `engine` share: what is asked for ([`Job`]), what comes back ([`Event`]), how it ended
//! ([`Finish`], [`Failure`]). It refuses to know the wire (no serde), the runtime (no async) and MLX (no arrays): token
//! ids are `u32`, and no text crosses this boundary but the reason of a failure.

mod constraint;
mod sampling;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use constraint::{Constraint, Mask, allows};
pub use sampling::{Logprobs, Sampling, Token};

/// One generation to run: a prompt already encoded, how to sample, and when to stop.
#[derive(Debug)]
pub struct Job {
    /// Names the job in logs and thread dumps; unique within the process.
    pub id: JobId,
    /// Token ids of the rendered prompt; never empty, each below the logit width.
    pub prompt: Vec<u32>,
    /// Who asks, in a word of the edge's own: rows are given to scopes in turn.
    pub scope: Arc<str>,
    /// Where what is computed of the prompt is looked for and left: what one bucket holds is never reused in another
    /// (E11). `None`: nothing is reused, and nothing left.
    pub bucket: Option<Arc<str>>,
    /// How a token is chosen from the logits.
    pub sampling: Sampling,
    /// What restricts the tokens, besides the sampling.
    pub constraint: Option<Box<dyn Constraint>>,
    /// When the job ends if nothing else ends it.
    pub limits: Limits,
}

impl Job {
    /// Tokens of prompt and answer, at most.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        u32::try_from(self.prompt.len()).unwrap_or(u32::MAX).saturating_add(self.limits.tokens_max)
    }
}

/// A job's number, counted from 1 in the order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// When a job ends.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most tokens to generate; at least 1, and prompt + this fits the context.
    pub tokens_max: u32,
    /// Token ids that end the generation and are not part of the answer.
    pub stop_tokens: Vec<u32>,
    /// A job still waiting at this moment is refused without a step spent on it (O2).
    pub queue_deadline: Instant,
}

/// What the engine tells the one who submitted a job, in this order: `Admitted`, `Prefill`, `Token`…, then exactly one of
/// `Finished` and `Failed`, which may come at any point. The channel has room for all of them, so the engine never waits for a reader.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The job left the queue: it has a row.
    Admitted,
    /// The prompt's evaluation begins.
    Prefill {
        /// Tokens of the prompt that need not be evaluated, because an earlier prompt began alike.
        cached_tokens: u32,
    },
    /// One token of the answer; stop tokens are not sent.
    Token(Token),
    /// The generation ended as asked.
    Finished(Finished),
    /// The generation ended without an answer that counts.
    Failed(Failure),
}

/// The end of a generation that worked.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was produced.
    Stop,
    /// `tokens_max` tokens were produced.
    Length,
}

/// Tokens in and out of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens produced, a final stop token included.
    pub completion_tokens: u32,
}

/// Where the time of one job went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submission to admission.
    pub queue: Duration,
    /// From admission to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// Why a job has no answer. The edge maps each variant to one status, exhaustively.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It waited in the queue past its deadline; no step was spent.
    #[error("waited in the queue longer than the queue-wait limit")]
    QueueTimeout,
    /// Its own numbers went wrong (for example NaN logits); other jobs are not touched.
    #[error("generation failed: {0}")]
    Row(String),
    /// The inference thread ended: panic, device error or stall. The process exits.
    #[error("the inference engine failed: {0}")]
    EngineDead(String),
    /// The drain deadline passed while it ran, or the server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
}
