//! An OpenAI-compatible inference server on MLX whose listener never outlives its ability to answer.
//!
//! # Code map, in reading order
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`] | what the operator asked for: flags, variables, a file → validated settings |
//! | [`platform`] | one thin file per facility of the operating system |
//! | [`lifecycle`] | phase, crash-loop brake, heartbeat, drain, signals, the watch thread and the exit thread |
//! | [`telemetry`] | log lines and the metrics registry |
//! | [`job`] | the words that `http` and `engine` share |
//! | [`api`] | OpenAI's wire types |
//! | [`text`] | tokenizer, chat template, incremental detokenizer, stop strings, thoughts and tool calls |
//! | [`grammar`] | structured output: what an answer must look like, as masks over tokens |
//! | [`prefix`] | the index of retained prompt states, generic over them |
//! | [`engine`] | the inference thread: commands, scheduler, rows, the trait [`engine::backend::Backend`] |
//! | [`mlx`] | a thread-confined façade over mlx-rs |
//! | [`kernels`] | operations whose implementation is chosen by device |
//! | [`cache`] | what a layer keeps between steps |
//! | [`nn`] | blocks that architectures share |
//! | [`sample`] | logits → token |
//! | [`model`] | weights, registry, one file per `model_type` |
//! | [`runner`] | `Backend` on a model: chunked prefill, the step that runs ahead, guesses and their gate, warm-up |
//! | [`hub`] | model names → local folders |
//! | [`client`] | the HTTP client of probes |
//! | [`http`] | listeners, router, chat and plain completions, streams, health, the page, drain of connections |
//! | [`ops`] | certificates, manifests, watchers, doctor; never loads a model |
//! | [`app`] | the composition root: the only module that sees every layer |
//!
//! # Invariants
//!
//! 1. Only the thread named `inference` touches MLX; arrays are created, evaluated and dropped there.
//! 2. The engine sees token ids only; no text crosses `submit` but failure reasons.
//! 3. The scheduler is a function of its inputs: no clock, channel, randomness, array.
//! 4. Every queue has a bound named by a const or a setting; when it is full the caller is told at once.
//! 5. An accepted job ends in exactly one terminal event, or a closed channel that the handler reads as failure.
//! 6. A dropped receiver is cancellation; it is noticed within one step, and a row leaves only between steps.
//! 7. After every step a row's recorded tokens equal the tokens in its cache, cancelled or not; a draft that the next step
//!    checks comes behind them, and goes when the row is closed.
//! 8. What a prompt finds computed leaves at least two of its tokens to evaluate, and was computed for the same bucket.
//! 9. Nothing blocking runs on the async runtime: templates and tokenising go to the blocking pool.
//! 10. Health never waits for the inference thread; it reads its heartbeat. `/v1/models` is health-bearing: 503 while the
//!     engine cannot answer.
//! 11. Before the first byte errors are statuses; after it they are one SSE error event, then the stream ends. A failed
//!     or empty generation is never a 200 that looks like success.
//! 12. A panic or a device error on the inference thread fails every job with a well-formed error, flips readiness and
//!     ends the process non-zero. We do not limp.
//! 13. `ops` never initialises MLX and never loads weights: the monitor shares nothing with what it watches.
//! 14. `unsafe` exists in `mlx`, `kernels` and `platform` only.
//!
//! `tests/tidy.rs` enforces who may name whom.

pub mod config;
pub mod platform;
pub mod lifecycle;
pub mod telemetry;
pub mod job;
pub mod api;
pub mod text;
pub mod grammar;
pub mod prefix;
pub mod engine;
pub mod mlx;
pub mod kernels;
pub mod cache;
pub mod nn;
pub mod sample;
pub mod model;
pub mod runner;
pub mod hub;
pub mod client;
pub mod http;
pub mod ops;
pub mod app;

// Unit tests include `tests/it/support`, which names the crate as an integration test does.
#[cfg(test)]
extern crate self as sanctum_mlx;
