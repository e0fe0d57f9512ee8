//! A server under test: the real engine and the real accept loop on a free port, with times that a test can wait for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::config::settings::{Limits, Listen, Settings, Times};
use crate::engine::{Engine, EngineSettings};
use crate::http::listener;
use crate::http::seats::Seats;
use crate::http::serve::{Front, Surface, serve};
use crate::http::tests::client::Client;
use crate::http::tests::script::{CONTEXT, END, Gate, Script};
use crate::http::{Defaults, Door, ModelCard, Served, State};
use crate::lifecycle::Lifecycle;
use crate::telemetry::metrics::Metrics;
use crate::text::Text;
use crate::text::template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;

/// What an assertion about a deadline allows on top of it.
pub(super) const SLACK: Duration = Duration::from_millis(250);
/// Until a condition that must come true is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says what the messages say, and knows no tools.
pub(in crate::http) const TEMPLATE: &str = "{%- for message in messages -%}\
    {%- if message.content == 'refuse me' -%}{{ raise_exception('the template refuses') }}{%- endif -%}\
    {{ message.content }}{%- endfor -%}";

pub(super) struct Site {
    pub(super) state: Arc<State>,
    pub(super) address: SocketAddr,
    pub(super) gate: Arc<Gate>,
    pub(super) seats: Arc<Seats>,
    /// Ends when `serve` returned.
    pub(super) serving: JoinHandle<()>,
}

/// Documented limits; times between 200 ms and 10 s, so that waiting for one is short and waiting for another is not.
pub(super) fn settings() -> Settings {
    let milliseconds = Duration::from_millis;
    Settings {
        home: "unused".into(),
        model: None,
        kv_bits: None,
        manifest: None,
        aliases: Vec::new(),
        listen: Listen {
            plain: Vec::new(),
            tls: Vec::new(),
            tls_names: Vec::new(),
            admin: (Ipv4Addr::LOCALHOST, 0).into(),
            hosts: Vec::new(),
            bearer_token: None,
        },
        times: Times {
            first_byte: milliseconds(400),
            headers: milliseconds(400),
            tls_handshake: milliseconds(400),
            body: milliseconds(400),
            ping: milliseconds(10_000),
            queue_wait: milliseconds(10_000),
            ..Times::documented()
        },
        limits: Limits { rows: 1, ..Limits::documented() },
        wired: false,
        strict: false,
        faults: Vec::new(),
        log_json: false,
        log_file: None,
    }
}

/// A ready server on the plain port.
pub(super) async fn site(change: impl FnOnce(&mut Settings)) -> Site {
    site_on(Surface::Plain, change).await
}

/// A ready server on the plain port, whose model has this template.
pub(super) async fn site_speaking(template: &str, change: impl FnOnce(&mut Settings)) -> Site {
    ready(Surface::Plain, template, change).await
}

/// A ready server behind any door.
pub(super) async fn site_on(surface: Surface, change: impl FnOnce(&mut Settings)) -> Site {
    ready(surface, TEMPLATE, change).await
}

async fn ready(surface: Surface, template: &str, change: impl FnOnce(&mut Settings)) -> Site {
    let mut settings = settings();
    change(&mut settings);
    let (lifecycle, gate) = (Lifecycle::new(), Arc::new(Gate::default()));
    let engine_settings = EngineSettings { queue_jobs_max: settings.limits.queue_jobs, rows_max: settings.limits.rows };
    let (script, rows) = (Arc::clone(&gate), settings.limits.rows);
    let engine = Engine::start(engine_settings, Arc::clone(&lifecycle), move |_| Ok(Script::new(script, rows)))
        .expect("a thread can be had");
    engine.started.await.expect("the engine tells").expect("the script starts");
    let metrics = Arc::new(Metrics::new());
    let state = Arc::new(State {
        engine: engine.handle,
        served: OnceLock::from(Served::new(card(), Arc::new(text(template)))),
        door: Door::new(&settings.listen),
        settings: Arc::new(settings),
        lifecycle,
        metrics: Arc::clone(&metrics),
        instance: "00000000-0000-4000-8000-000000000000".to_owned(),
        started: Instant::now(),
        streams: TaskTracker::new(),
    });
    let limits = &state.settings.limits;
    let seats = Seats::new(limits.connections, limits.half_handshakes, metrics);
    let listener = listener::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let front = Front { listener, surface, seats: Arc::clone(&seats), state: Arc::clone(&state) };
    let serving = tokio::spawn(async move { serve(front).await.expect("a fresh listener") });
    Site { state, address, gate, seats, serving }
}

fn card() -> ModelCard {
    ModelCard {
        id: "org/script".to_owned(),
        aliases: vec!["script".to_owned()],
        created: 1_700_000_000,
        context_tokens: CONTEXT,
        quantization: "none".to_owned(),
        adapter: None,
        fingerprint: "script-1".to_owned(),
        defaults: Defaults { temperature: Some(0.5), ..Defaults::default() },
    }
}

/// A real tokenizer in which each byte is a token, and a template.
pub(in crate::http) fn text(template: &str) -> Text {
    let vocabulary: serde_json::Map<String, Value> =
        (0..=u8::MAX).map(|byte| (spelled(byte).to_string(), Value::from(byte))).collect();
    let end = json!({ "id": END, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false });
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [end], "truncation": null, "padding": null, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] }
    });
    let tokenizer = Tokenizer::from_json(tokenizer.to_string().as_bytes()).expect("a tokenizer of bytes");
    let template = ChatTemplate::new(template, Vec::<(String, String)>::new()).expect("a template");
    Text::new(tokenizer, Some(template), &[END])
}

/// The character by which byte-level vocabularies write a byte: itself if it is printable, else one above U+0100.
fn spelled(byte: u8) -> char {
    let is_plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !is_plain(*byte)).count();
    char::from_u32(0x100 + u32::try_from(before).expect("at most 256")).expect("a letter")
}

impl Site {
    pub(super) async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Waits until a request is in flight for each of `count`.
    pub(super) async fn in_flight(&self, count: usize) {
        eventually("requests are in flight", || self.state.lifecycle.drain.in_flight() == count).await;
    }

    /// The value of a metric's line, by everything before the value.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let response = crate::http::health::metrics(&self.state);
        let text = crate::http::tests::client::body_text(response.into_body());
        let line = text.lines().find_map(|line| line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')));
        line.map_or(0.0, |value| value.parse().expect("a metric is a number"))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.gate.open();
        self.state.lifecycle.drain.cut();
    }
}

/// Waits until a condition is true, and fails with its name when it does not come.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
