//! The edge: sockets, TLS, HTTP, routes, and the way from a request to the engine and back. It owns connections, their
//! timeouts and their end; it refuses to know MLX and how a token is chosen.
//!
//! What must hold: nothing here waits without a bound; a request is in flight from its complete head until the last
//! byte of its response was taken by the kernel; a client that left is a dropped [`Events`](crate::engine::handle::Events).

pub mod admin;
mod body;
mod chat;
mod collect;
mod completions;
mod connection;
mod constrain;
mod error;
mod generate;
mod generation;
mod guard;
mod health;
pub mod listener;
mod logprobs;
mod models;
mod page;
mod prepare;
mod reading;
mod reply;
mod router;
pub mod seats;
pub mod serve;
mod sse;
pub mod tick;
pub mod tls;
mod tokens;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio_util::task::TaskTracker;

use crate::config::settings::Settings;
use crate::engine::handle::Handle;
use crate::lifecycle::Lifecycle;
use crate::telemetry::metrics::Metrics;
use crate::text::Text;

/// What every request may look at. Built once by `app`; shared by all listeners.
pub struct State {
    /// The way to the inference thread.
    pub engine: Handle,
    /// The loaded model; empty until it is loaded.
    pub served: OnceLock<Served>,
    /// Phase, heartbeat and drain.
    pub lifecycle: Arc<Lifecycle>,
    /// Limits and times.
    pub settings: Arc<Settings>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Names this start of the process, on every response.
    pub instance: String,
    /// When the process began to serve.
    pub started: Instant,
    /// The tasks that write streams; they end with their connection.
    pub streams: TaskTracker,
    /// Hosts and the token that the plain port asks for.
    pub door: guard::Door,
}

/// A model that is loaded, and how it speaks.
pub struct Served {
    /// What clients may know about it.
    pub card: ModelCard,
    /// Its tokenizer and chat template.
    pub text: Arc<Text>,
    /// Makes its answers keep to a form.
    pub constrainer: Arc<Constrainer>,
}

impl Served {
    /// A model of this card that speaks like this.
    #[must_use]
    pub fn new(card: ModelCard, text: Arc<Text>) -> Self {
        let constrainer = Arc::new(Constrainer::new(Arc::clone(&text)));
        Self { card, text, constrainer }
    }
}

/// What clients may know about the loaded model, and what its makers recommend.
#[derive(Debug, Clone)]
pub struct ModelCard {
    /// The name to send as `model`.
    pub id: String,
    /// Further names that it answers to.
    pub aliases: Vec<String>,
    /// Unix seconds of its files.
    pub created: u64,
    /// Most tokens of prompt and answer together.
    pub context_tokens: u32,
    /// How its weights are represented.
    pub quantization: String,
    /// Name of the merged adapter.
    pub adapter: Option<String>,
    /// Version, revision, quantisation and adapter in one word.
    pub fingerprint: String,
    /// From its `generation_config.json`.
    pub defaults: Defaults,
}

/// The sampling that the model's makers recommend; `None` leaves OpenAI's default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)] // The names are those of `generation_config.json`.
pub struct Defaults {
    pub temperature: Option<f32>,
    pub top_p: Option<f32>,
    pub top_k: Option<u32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

pub use constrain::Constrainer;
pub use guard::Door;
