//! The server in this process: the real engine thread, the real accept loop on a loopback port, the real text of the
//! default model, with any backend. It is composed as `app` composes `serve`, without what a process needs besides.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use sanctum_mlx::config::settings::{Limits, Listen, Settings, Times};
use sanctum_mlx::engine::backend::Backend;
use sanctum_mlx::engine::handle::Handle;
use sanctum_mlx::engine::{Engine, EngineSettings, StartFailure};
use sanctum_mlx::http::seats::Seats;
use sanctum_mlx::http::serve::{Front, Surface, serve};
use sanctum_mlx::http::{Defaults, Door, ModelCard, Served, State, listener, tick};
use sanctum_mlx::lifecycle::Lifecycle;
use sanctum_mlx::model::weights::Checkpoint;
use sanctum_mlx::telemetry::metrics::Metrics;
use sanctum_mlx::text::Text;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::support::default_text;
use crate::system;

/// As in `app`.
const WORKERS_MAX: usize = 4;

/// A ready server.
pub struct Site {
    /// The way to the engine, past HTTP.
    pub engine: Handle,
    pub address: SocketAddr,
    pub text: Arc<Text>,
    pub runtime: Runtime,
    lifecycle: Arc<Lifecycle>,
    ended: Option<oneshot::Receiver<()>>,
}

impl Site {
    /// Starts it and waits until it has generated its first token.
    pub fn start<B, L>(text: Arc<Text>, load: L) -> Self
    where
        B: Backend,
        L: FnOnce() -> Result<B, StartFailure> + Send + 'static,
    {
        let runtime = Builder::new_multi_thread()
            .worker_threads(system::cores().min(WORKERS_MAX))
            .thread_name("worker")
            .enable_all()
            .build()
            .expect("a runtime");
        let (settings, lifecycle) = (Arc::new(settings()), Lifecycle::new());
        let limits = settings.limits;
        let engine_settings = EngineSettings { queue_jobs_max: limits.queue_jobs, rows_max: limits.rows };
        let engine = Engine::start(engine_settings, Arc::clone(&lifecycle), move |_| load()).expect("a thread");
        let Engine { handle, started, ended } = engine;
        let capacity = runtime.block_on(started).expect("the engine tells").expect("the backend starts");
        let metrics = Arc::new(Metrics::new());
        let served = Served::new(card(capacity.context_tokens), Arc::clone(&text));
        let state = Arc::new(State {
            engine: handle.clone(),
            served: OnceLock::from(served),
            lifecycle: Arc::clone(&lifecycle),
            door: Door::new(&settings.listen),
            settings,
            metrics: Arc::clone(&metrics),
            instance: uuid::Uuid::new_v4().to_string(),
            started: Instant::now(),
            streams: TaskTracker::new(),
        });
        let listener = listener::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        runtime.spawn(tick::run(Arc::clone(&state)));
        let seats = Seats::new(limits.connections, limits.half_handshakes, metrics);
        runtime.spawn(serve(Front { listener, surface: Surface::Plain, seats, state }));
        Self { engine: handle, address, text, runtime, lifecycle, ended: Some(ended) }
    }
}

impl Drop for Site {
    /// The next part of the bench has the memory and the cores to itself.
    fn drop(&mut self) {
        self.lifecycle.drain.cut();
        self.engine.stop();
        if let Some(ended) = self.ended.take() {
            // An error means that the thread is gone without a word.
            let _ = self.runtime.block_on(ended);
        }
    }
}

/// The documented ones.
fn settings() -> Settings {
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
        times: Times::documented(),
        limits: Limits::documented(),
        wired: false,
        strict: false,
        faults: Vec::new(),
        log_json: false,
        log_file: None,
    }
}

fn card(context_tokens: u32) -> ModelCard {
    ModelCard {
        id: "SmolLM2-135M-Instruct".to_owned(),
        aliases: Vec::new(),
        created: 0,
        context_tokens,
        quantization: "bench".to_owned(),
        adapter: None,
        fingerprint: concat!("sanctum-mlx-", env!("CARGO_PKG_VERSION"), "-bench").to_owned(),
        defaults: Defaults::default(),
    }
}

/// Where `scripts/setup` puts the default model.
pub fn model_folder() -> PathBuf {
    let home = std::env::var_os("SANCTUM_MLX_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".sanctum-mlx"))).expect("a home folder");
    home.join("models/default")
}

/// The default model's files.
pub fn checkpoint() -> Checkpoint {
    Checkpoint::open(&model_folder()).expect("the default model; run scripts/setup")
}

/// The default model's text.
pub fn text() -> Arc<Text> {
    Arc::new(default_text::text(&default_text::source()))
}
