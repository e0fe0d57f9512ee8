//! Every metric, with its name and unit, in one registry. Labels come from closed enums, so the number of series is
//! fixed; no prompt, model name or client name becomes a label. Counting never waits for anyone.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::telemetry::binary::BinaryIntegrity;
use crate::telemetry::companions::Companions;
use crate::telemetry::misses::Misses;
use crate::telemetry::speed::Speed;

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Comes before every name.
const PREFIX: &str = "sanctum_mlx";
/// Seconds; from a warm short prompt on a fast machine to a long prompt behind a full queue.
const FIRST_TOKEN_BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds; from 1,000 tokens a second to a stalled stream.
const INTER_TOKEN_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.5, 5.0];

type Seconds = Gauge<f64, AtomicU64>;

/// The counters that anyone may bump, and the gauges that are read at the moment of a scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    engine: EngineMetrics,
    /// From the arrival of a request to its first token.
    pub first_token_seconds: Histogram,
    /// Between two tokens of one answer.
    pub inter_token_seconds: Histogram,
    /// Tokens of rendered prompts whose job was accepted.
    pub prompt_tokens: Counter,
    /// Tokens of rows' prompts that another row had computed.
    pub prompt_tokens_cached: Counter,
    /// Prompts for which nothing that was computed could be used.
    pub prefix_misses: Misses,
    /// Tokens that rows guessed.
    pub drafts: DraftCounters,
    /// Tokens generated.
    pub completion_tokens: Counter,
    /// Answers ended, by reason.
    pub finishes: Family<FinishLabels, Counter>,
    /// Answers that ended as asked with no text at all.
    pub empty_completions: Counter,
    /// Responses, by the first digit of their status.
    pub http_responses: Family<ClassLabels, Counter>,
    /// Open connections.
    pub connections: Gauge,
    /// Connections closed by us before their time, by reason.
    pub connections_dropped: Family<DropLabels, Counter>,
    /// Failed calls of accept.
    pub accept_errors: Counter,
    /// Ticks of the async runtime that came more than 100 ms late.
    pub runtime_late_ticks: Counter,
    /// How late the latest tick of the async runtime was.
    pub runtime_tick_lateness_seconds: Seconds,
    /// When what mutual TLS depends on ends, in Unix seconds; empty without mutual TLS.
    pub tls_not_after: Family<TlsLabels, Gauge>,
    /// Whether the executable on disk is the one that runs.
    pub binary_integrity: BinaryIntegrity,
    /// How long ago each watcher last looked.
    pub companions: Companions,
    /// How fast the last answer was; told in `/health`.
    pub speed: Speed,
}

/// What became of guessed tokens. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct DraftCounters {
    /// Guessed and checked.
    pub drafted: Counter,
    /// Of those, the ones that were right.
    pub accepted: Counter,
}

/// Set from [`EngineGauges`] at each scrape.
#[derive(Debug, Default)]
struct EngineMetrics {
    up: Gauge,
    last_step_age_seconds: Seconds,
    queue_depth: Gauge,
    queue_oldest_age_seconds: Seconds,
    running_rows: Gauge,
    runtime_tick_age_seconds: Seconds,
    requests_in_flight: Gauge,
    memory_active_bytes: Gauge,
    memory_cache_bytes: Gauge,
    memory_peak_bytes: Gauge,
    self_probe_age_seconds: Seconds,
    self_probe_seconds: Seconds,
    self_probe_misses: Gauge,
    self_probe_steps: Counter,
    self_probe_steps_while_clients: Counter,
}

/// The state of the engine at the moment of a scrape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineGauges {
    /// The engine can answer.
    pub up: bool,
    /// Seconds since the inference thread last finished a unit of work.
    pub last_step_age_seconds: f64,
    /// Jobs waiting.
    pub queue_depth: u32,
    /// Seconds the oldest of them has waited.
    pub queue_oldest_age_seconds: f64,
    /// Rows being generated.
    pub running_rows: u32,
    /// Seconds since the async runtime's ticker last ran.
    pub runtime_tick_age_seconds: f64,
    /// Requests whose response has not been delivered in full.
    pub requests_in_flight: usize,
    /// What the inference thread last told.
    pub memory: MemoryGauges,
    /// What the idle engine answered when the process itself asked.
    pub self_probe: SelfProbeGauges,
}

/// Bytes that the model and its rows hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryGauges {
    /// In arrays that live.
    pub active_bytes: u64,
    /// In freed buffers that are kept for reuse.
    pub cache_bytes: u64,
    /// The most that was ever active since the model was loaded.
    pub peak_bytes: u64,
}

/// Tokens that the process asked itself for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelfProbeGauges {
    /// Seconds since the last one ended; `None` before the first.
    pub last_age_seconds: Option<f64>,
    /// Seconds that it took.
    pub last_seconds: Option<f64>,
    /// Misses in a row, with no token since.
    pub misses: u32,
    /// Engine steps spent since the start.
    pub steps: u64,
    /// Of those, the ones spent while a client's row ran or waited.
    pub steps_while_clients: u64,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The variants are the label's values.
pub enum FinishLabel {
    Stop,
    Length,
    Deadline,
    ClientDisconnected,
    QueueTimeout,
    Failed,
    EngineDead,
    ShuttingDown,
}

impl EncodeLabelValue for FinishLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Deadline => "deadline",
            Self::ClientDisconnected => "client_disconnected",
            Self::QueueTimeout => "queue_timeout",
            Self::Failed => "failed",
            Self::EngineDead => "engine_dead",
            Self::ShuttingDown => "shutting_down",
        })
    }
}

/// Labels of `finishes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FinishLabels {
    /// Why it ended.
    pub reason: FinishLabel,
}

/// The first digit of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClassLabels {
    /// `2` for 200 and so on.
    pub class: u16,
}

/// Why we closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The variants are the label's values.
pub enum DropLabel {
    Silent,
    Handshake,
    Evicted,
    WriteStall,
}

impl EncodeLabelValue for DropLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Silent => "silent",
            Self::Handshake => "handshake",
            Self::Evicted => "evicted",
            Self::WriteStall => "write_stall",
        })
    }
}

/// Labels of `connections_dropped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabels {
    /// Why it was closed.
    pub reason: DropLabel,
}

/// Labels of `tls_not_after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TlsLabels {
    /// `server`, `ca` or `crl`.
    pub of: &'static str,
}

impl Metrics {
    /// A registry in which everything is zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            engine: EngineMetrics::default(),
            first_token_seconds: Histogram::new(FIRST_TOKEN_BUCKETS),
            inter_token_seconds: Histogram::new(INTER_TOKEN_BUCKETS),
            prompt_tokens: Counter::default(),
            prompt_tokens_cached: Counter::default(),
            prefix_misses: Misses::default(),
            drafts: DraftCounters::default(),
            completion_tokens: Counter::default(),
            finishes: Family::default(),
            empty_completions: Counter::default(),
            http_responses: Family::default(),
            connections: Gauge::default(),
            connections_dropped: Family::default(),
            accept_errors: Counter::default(),
            runtime_late_ticks: Counter::default(),
            runtime_tick_lateness_seconds: Seconds::default(),
            tls_not_after: Family::default(),
            binary_integrity: BinaryIntegrity::default(),
            companions: Companions::default(),
            speed: Speed::default(),
        };
        metrics.register();
        metrics
    }

    /// Gives every metric its name. Counters get `_total` from the encoder.
    fn register(&mut self) {
        let mut add = Adder(&mut self.registry);
        let engine = &self.engine;
        add.add("engine_up", "1 while the engine can answer", &engine.up);
        add.add("last_step_age_seconds", "Since the engine's last unit of work", &engine.last_step_age_seconds);
        add.add("queue_depth", "Jobs waiting", &engine.queue_depth);
        add.add("queue_oldest_age_seconds", "Wait of the oldest waiting job", &engine.queue_oldest_age_seconds);
        add.add("running_rows", "Rows being generated", &engine.running_rows);
        add.add("runtime_tick_age_seconds", "Since the async runtime's last tick", &engine.runtime_tick_age_seconds);
        add.add("requests_in_flight", "Requests not yet delivered in full", &engine.requests_in_flight);
        register_held(&mut add, engine);
        add.add("time_to_first_token_seconds", "From arrival to the first token", &self.first_token_seconds);
        add.add("inter_token_seconds", "Between two tokens of one answer", &self.inter_token_seconds);
        add.add("prompt_tokens", "Prompt tokens of accepted jobs", &self.prompt_tokens);
        add.add(
            "prompt_tokens_cached",
            "Tokens of rows' prompts that another row had computed",
            &self.prompt_tokens_cached,
        );
        add.add("prefix_misses", "Prompts that found nothing computed to begin with", &self.prefix_misses.family);
        add.add("draft_tokens", "Tokens guessed from earlier ones and checked", &self.drafts.drafted);
        add.add("draft_tokens_accepted", "Guessed tokens that were right", &self.drafts.accepted);
        add.add("completion_tokens", "Tokens generated", &self.completion_tokens);
        add.add("finishes", "Answers ended, by reason", &self.finishes);
        add.add("empty_completions", "Answers that ended without any text", &self.empty_completions);
        add.add("http_responses", "Responses, by the first digit of their status", &self.http_responses);
        add.add("connections", "Open connections", &self.connections);
        add.add("connections_dropped", "Connections closed by the server, by reason", &self.connections_dropped);
        add.add("accept_errors", "Failed calls of accept", &self.accept_errors);
        add.add("runtime_late_ticks", "Ticks of the async runtime over 100 ms late", &self.runtime_late_ticks);
        let lateness = &self.runtime_tick_lateness_seconds;
        add.add("runtime_tick_lateness_seconds", "Lateness of the async runtime's latest tick", lateness);
        add.add("tls_cert_not_after_seconds", "End of what mutual TLS depends on, Unix time", &self.tls_not_after);
        add.add("binary_integrity", "1 while a restart would run what runs now", &self.binary_integrity.gauge);
        add.add("companion_age_seconds", "Since each watcher's last tick", &self.companions.family);
    }

    /// The whole registry as text, with the engine's state as of now.
    #[must_use]
    pub fn render(&self, gauges: EngineGauges) -> String {
        let engine = &self.engine;
        engine.up.set(i64::from(gauges.up));
        engine.last_step_age_seconds.set(gauges.last_step_age_seconds);
        engine.queue_depth.set(i64::from(gauges.queue_depth));
        engine.queue_oldest_age_seconds.set(gauges.queue_oldest_age_seconds);
        engine.running_rows.set(i64::from(gauges.running_rows));
        engine.runtime_tick_age_seconds.set(gauges.runtime_tick_age_seconds);
        engine.requests_in_flight.set(i64::try_from(gauges.requests_in_flight).unwrap_or(i64::MAX));
        engine.set_held(gauges.memory, gauges.self_probe);
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }

    /// One more answer that ended for this reason.
    pub fn finished(&self, reason: FinishLabel) {
        self.finishes.get_or_create(&FinishLabels { reason }).inc();
    }

    /// One more response of this status.
    pub fn responded(&self, status: u16) {
        self.http_responses.get_or_create(&ClassLabels { class: status / 100 }).inc();
    }

    /// One more connection that we closed for this reason.
    pub fn dropped(&self, reason: DropLabel) {
        self.connections_dropped.get_or_create(&DropLabels { reason }).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Names what the engine holds and what it answers the process itself.
fn register_held(add: &mut Adder<'_>, engine: &EngineMetrics) {
    add.add("memory_active_bytes", "In arrays that live", &engine.memory_active_bytes);
    add.add("memory_cache_bytes", "In freed buffers kept for reuse", &engine.memory_cache_bytes);
    add.add("memory_peak_bytes", "The most that was ever active", &engine.memory_peak_bytes);
    add.add("self_probe_age_seconds", "Since the last self-probe; NaN before one", &engine.self_probe_age_seconds);
    add.add("self_probe_seconds", "Of the last self-probe; NaN before one", &engine.self_probe_seconds);
    add.add("self_probe_misses", "Self-probes missed in a row", &engine.self_probe_misses);
    add.add("self_probe_steps", "Engine steps spent on self-probes", &engine.self_probe_steps);
    add.add(
        "self_probe_steps_while_clients",
        "Engine steps spent on self-probes while a client ran or waited",
        &engine.self_probe_steps_while_clients,
    );
}

impl EngineMetrics {
    fn set_held(&self, memory: MemoryGauges, self_probe: SelfProbeGauges) {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory_active_bytes.set(bytes(memory.active_bytes));
        self.memory_cache_bytes.set(bytes(memory.cache_bytes));
        self.memory_peak_bytes.set(bytes(memory.peak_bytes));
        self.self_probe_age_seconds.set(self_probe.last_age_seconds.unwrap_or(f64::NAN));
        self.self_probe_seconds.set(self_probe.last_seconds.unwrap_or(f64::NAN));
        self.self_probe_misses.set(i64::from(self_probe.misses));
        self.self_probe_steps.inner().store(self_probe.steps, Ordering::Relaxed);
        self.self_probe_steps_while_clients.inner().store(self_probe.steps_while_clients, Ordering::Relaxed);
    }
}

/// Registers clones: a metric and its clone are one.
struct Adder<'a>(&'a mut Registry);

impl Adder<'_> {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: &M) {
        self.0.register(name, help, metric.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p7_a_scrape_shows_the_state_in_which_a_hang_is_visible() {
        let metrics = Metrics::new();
        metrics.finished(FinishLabel::ClientDisconnected);
        metrics.responded(503);
        metrics.first_token_seconds.observe(0.3);
        let text = metrics.render(EngineGauges {
            up: false,
            last_step_age_seconds: 12.5,
            queue_depth: 3,
            queue_oldest_age_seconds: 4.0,
            running_rows: 1,
            runtime_tick_age_seconds: 0.1,
            requests_in_flight: 2,
            memory: MemoryGauges { active_bytes: 11, cache_bytes: 12, peak_bytes: 13 },
            self_probe: SelfProbeGauges {
                last_age_seconds: Some(61.5),
                last_seconds: Some(0.25),
                misses: 1,
                steps: 4,
                steps_while_clients: 0,
            },
        });
        for line in [
            "sanctum_mlx_engine_up 0",
            "sanctum_mlx_last_step_age_seconds 12.5",
            "sanctum_mlx_queue_depth 3",
            "sanctum_mlx_queue_oldest_age_seconds 4.0",
            "sanctum_mlx_running_rows 1",
            "sanctum_mlx_memory_active_bytes 11",
            "sanctum_mlx_memory_peak_bytes 13",
            "sanctum_mlx_self_probe_age_seconds 61.5",
            "sanctum_mlx_self_probe_misses 1",
            "sanctum_mlx_self_probe_steps_total 4",
            "sanctum_mlx_self_probe_steps_while_clients_total 0",
            "sanctum_mlx_time_to_first_token_seconds_count 1",
            "sanctum_mlx_finishes_total{reason=\"client_disconnected\"} 1",
            "sanctum_mlx_http_responses_total{class=\"5\"} 1",
            "sanctum_mlx_empty_completions_total 0",
            "sanctum_mlx_prefix_misses_total{reason=\"evicted\"} 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
