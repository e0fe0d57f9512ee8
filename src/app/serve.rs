//! How `serve` comes up: signals and exit first, then everything that can be wrong, then the sockets, then the model. It
//! owns this order (a mistake is told before anything is bound; a socket that listens says 503 until a real token was
//! generated) and hands the way down to `shutdown`.

use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::TaskTracker;

use crate::app::announce::{Bound, StateFile};
use crate::app::loading::{self, Opened};
use crate::app::shutdown::{self, Going};
use crate::app::{awake, self_probe, surroundings};
use crate::config::args::ServeArgs;
use crate::config::settings::{Limits, Settings, Times};
use crate::config::sources::Sources;
use crate::config::{home, resolve, show};
use crate::engine::{Engine, EngineSettings, Progress, StartFailure};
use crate::http::seats::Seats;
use crate::http::serve::{Front, Surface};
use crate::http::tls::TlsFiles;
use crate::http::{self, Door, State};
use crate::lifecycle::Lifecycle;
use crate::lifecycle::brake::{Brake, BrakeLimits, Limp, Pause};
use crate::lifecycle::exit::{ExitCode, Order};
use crate::lifecycle::phase::Phase;
use crate::lifecycle::signal::{self, DrainLimits};
use crate::lifecycle::stall::StallLimits;
use crate::lifecycle::watch::{self, WatchSettings};
use crate::ops::certs;
use crate::platform::executable::Executable;
use crate::platform::signals::{self, Caught};
use crate::platform::{allocator, host, rlimits};
use crate::runner::{Gate, Guesses, MemoryLimit, RunnerSettings};
use crate::telemetry::logs::{self, Format};
use crate::telemetry::metrics::{Metrics, TlsLabels};

/// After the drain deadline, the process is forced to end this much later.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// Where starts are counted, below the home.
const STARTS: &str = "state/starts.json";
/// The part of the brake's window that a process waits before it ends, when the same mistake was refused again and again.
const CONFIG_WAIT_SHARE: u32 = 10;
/// Most workers of the public runtime: it parses and writes, and the cores are the model's.
const WORKERS_MAX: usize = 4;
/// Open files besides connections: libraries, model files, logs, listeners.
const FILES_BESIDE_CONNECTIONS: u64 = 64;
/// Asked of the system at start.
const OPEN_FILES_WANTED: u64 = 4_096;

/// Why `serve` did not come up.
struct Refusal {
    code: ExitCode,
    /// One line on stderr.
    what: String,
}

impl Refusal {
    fn config(what: impl ToString) -> Self {
        Self { code: ExitCode::Config, what: what.to_string() }
    }

    fn system(what: impl ToString) -> Self {
        Self { code: ExitCode::OsError, what: what.to_string() }
    }
}

/// Runs `serve`; returns only when it did not come up, or for `--check`.
pub(super) fn run(args: &ServeArgs) -> ExitCode {
    let resolved = match resolve::resolve(&Sources::of_process(&args.flags)) {
        Ok(resolved) => resolved,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            if !args.check {
                slow_down_unresolved(args);
            }
            return ExitCode::Config;
        }
    };
    for warning in &resolved.warnings {
        eprintln!("warning: {warning}");
    }
    if args.check {
        let text = if args.json { show::json(&resolved) } else { show::table(&resolved) };
        println!("{text}");
        return ExitCode::Done;
    }
    match start(resolved.settings) {
        Ok(never) => match never {},
        Err(Refusal { code, what }) => {
            eprintln!("error: {what}");
            code
        }
    }
}

/// What `start` would return if it returned.
enum Never {}

fn start(settings: Settings) -> Result<Never, Refusal> {
    allocator::give_back_large_blocks();
    // First of all: from here on a signal to stop is obeyed, whatever is under way.
    let caught = signals::catch().map_err(Refusal::system)?;
    let executable = Executable::of_process();
    home::prepare(&settings.home).map_err(Refusal::config)?;
    let settings = Arc::new(settings);
    let lifecycle = Lifecycle::new();
    let state_file = StateFile::at(&settings.home);
    let limits = BrakeLimits { starts: settings.limits.crash_loop_starts, window: settings.times.brake };
    let (brake, limp) = Brake::start(&settings.home.join(STARTS), limits);
    let brake = Arc::new(brake);
    start_threads(caught, &settings, &lifecycle, (&state_file, &brake))?;
    let refused = come_up(&settings, &lifecycle, state_file, (executable, limp));
    refused.inspect_err(|refusal| slow_down(&brake, refusal.code, settings.times.brake / CONFIG_WAIT_SHARE))
}

/// Notes a refusal. A supervisor that starts us again at once, with the same mistake, is held back for a while.
fn slow_down(brake: &Brake, code: ExitCode, wait: Duration) {
    brake.end(code as i32);
    // Whoever sits at a terminal is no supervisor.
    if code == ExitCode::Config && brake.repeats(code as i32) && !io::stderr().is_terminal() {
        eprintln!("refused again and again: ends in {} s, so that this is not tried all the time", wait.as_secs_f64());
        Pause::default().wait(wait);
    }
}

/// The same for settings that could not be resolved, by the documented limits.
fn slow_down_unresolved(args: &ServeArgs) {
    let Ok(home) = home::root(args.flags.home().as_deref()) else { return };
    if home.is_dir() {
        let window = Times::documented().brake;
        let limits = BrakeLimits { starts: Limits::documented().crash_loop_starts, window };
        slow_down(&Brake::start(&home.join(STARTS), limits).0, ExitCode::Config, window / CONFIG_WAIT_SHARE);
    }
}

/// Everything that can be refused, and then the server.
fn come_up(
    settings: &Arc<Settings>,
    lifecycle: &Arc<Lifecycle>,
    state_file: StateFile,
    (executable, limp): (io::Result<Executable>, Option<Limp>),
) -> Result<Never, Refusal> {
    let opened = loading::open(settings).map_err(|error| Refusal::config(format!("{error:#}")))?;
    let tls = prepare_tls(settings)?;
    raise_open_files(settings)?;
    let (bound, listeners) = bind(settings)?;
    match &limp {
        None => drop(lifecycle.phase.advance(Phase::Loading)),
        Some(limp) => tell_limp(limp, lifecycle),
    }
    eprintln!("{}", bound.listening());

    let public = public_runtime().map_err(Refusal::system)?;
    let metrics = Arc::new(Metrics::new());
    if tls.is_some() {
        tell_ends(settings, &metrics)?;
    }
    awake::keep(lifecycle, settings.times.watch).map_err(Refusal::system)?;
    surroundings::watch(&metrics, executable, &settings.home, settings.times.integrity).map_err(Refusal::system)?;
    let engine = start_engine(settings, lifecycle, (&opened, limp), (&public, &metrics))?;
    let state = Arc::new(State {
        engine: engine.handle.clone(),
        served: OnceLock::new(),
        lifecycle: Arc::clone(lifecycle),
        settings: Arc::clone(settings),
        metrics: Arc::clone(&metrics),
        instance: uuid::Uuid::new_v4().to_string(),
        started: Instant::now(),
        streams: TaskTracker::new(),
        door: Door::new(&settings.listen),
    });
    http::admin::spawn(listeners.admin, Arc::clone(&state)).map_err(Refusal::system)?;
    let seats = Seats::new(settings.limits.connections, settings.limits.half_handshakes, metrics);
    public.spawn(http::tick::run(Arc::clone(&state)));
    let fronts = surfaces(listeners.public, tls)
        .map(|(listener, surface)| Front { listener, surface, seats: Arc::clone(&seats), state: Arc::clone(&state) })
        .map(|front| public.spawn(serve_front(front)))
        .collect();
    let watcher = Builder::new_current_thread().enable_all().build().map_err(Refusal::system)?;
    let drain = settings.times.drain;
    watcher.block_on(async {
        let Engine { handle, started, ended } = engine;
        tokio::spawn(async move {
            let outcome = started.await.unwrap_or_else(|_| Err(StartFailure::Device("the thread is gone".to_owned())));
            finish_start(outcome.map(|_| ()), &opened, &state, &bound, &state_file);
        });
        let lifecycle = Arc::clone(lifecycle);
        shutdown::follow(Going { lifecycle, drain, fronts, engine: handle, engine_ended: ended }).await;
        // The exit thread has its order; it ends the process from here.
        std::future::pending::<Result<Never, Refusal>>().await
    })
}

/// Says that nothing is loaded, why, and what ends that.
fn tell_limp(Limp { pause, reason }: &Limp, lifecycle: &Lifecycle) {
    lifecycle.phase.advance_because(Phase::CrashLoop, reason);
    let seconds = pause.as_secs();
    tracing::error!(event = "crash_loop", seconds, reason, "nothing is loaded");
    eprintln!("crash loop: {reason}; loads again in {seconds} s, or at once on SIGHUP");
}

fn start_threads(
    caught: Caught,
    settings: &Settings,
    lifecycle: &Arc<Lifecycle>,
    (state_file, brake): (&StateFile, &Arc<Brake>),
) -> Result<(), Refusal> {
    let logs = logs::start(if settings.log_json { Format::Json } else { Format::Text }, settings.log_file.as_deref());
    let state_file = state_file.clone();
    let brake = Arc::clone(brake);
    let flush = move |code| {
        brake.end(code as i32);
        state_file.remove();
        drop(logs);
    };
    lifecycle.exit.start(flush).map_err(Refusal::system)?;
    let times = settings.times;
    let limits = DrainLimits { drain: times.drain, exit_grace: EXIT_GRACE };
    signal::start(caught, limits, Arc::clone(lifecycle)).map_err(Refusal::system)?;
    let stall = StallLimits { degraded: times.stall_degraded, unready: times.stall_unready, dead: times.stall_dead };
    let watch = WatchSettings { tick: times.watch, runtime_tick: http::tick::TICK, stall };
    watch::start(watch, Arc::clone(lifecycle)).map_err(Refusal::system)?;
    Ok(())
}

/// The certificates, made where there are none, and what TLS makes of them.
fn prepare_tls(settings: &Settings) -> Result<Option<Arc<rustls::ServerConfig>>, Refusal> {
    let Some(address) = settings.listen.tls.first() else { return Ok(None) };
    let made = certs::ensure(&settings.home, &settings.listen.tls_names)
        .map_err(|error| Refusal::config(format!("{error:#}")))?;
    if let Some(speech) = made.speech(&format!("https://localhost:{}", address.port())) {
        eprintln!("{speech}");
    }
    let files = TlsFiles::under(&settings.home);
    http::tls::server_config(&files, host::user_id()).map(Some).map_err(Refusal::config)
}

/// When the certificates end, for whoever scrapes (T9).
fn tell_ends(settings: &Settings, metrics: &Metrics) -> Result<(), Refusal> {
    let ends = certs::ends(&certs::Paths::of(&settings.home));
    for (of, end) in ends.map_err(|error| Refusal::config(format!("{error:#}")))? {
        metrics.tls_not_after.get_or_create(&TlsLabels { of }).set(end);
    }
    Ok(())
}

fn raise_open_files(settings: &Settings) -> Result<(), Refusal> {
    let needed = settings.limits.connections as u64 + FILES_BESIDE_CONNECTIONS;
    let open = rlimits::raise_open_files(OPEN_FILES_WANTED.max(needed)).map_err(Refusal::system)?;
    if open < needed {
        return Err(Refusal::config(format!(
            "connections: {} connections need {needed} open files and the system allows {open}; raise its limit or \
             lower the setting",
            settings.limits.connections
        )));
    }
    Ok(())
}

struct Listeners {
    /// With whether TLS is spoken on it.
    public: Vec<(TcpListener, bool)>,
    admin: TcpListener,
}

/// Binds every address; the first that fails is told (exit 71).
fn bind(settings: &Settings) -> Result<(Bound, Listeners), Refusal> {
    let listen = &settings.listen;
    let one = |address| http::listener::bind(address).map_err(Refusal::system);
    let many = |addresses: &[_]| addresses.iter().map(|address| one(*address)).collect::<Result<Vec<_>, _>>();
    let local = |listener: &TcpListener| listener.local_addr().map_err(Refusal::system);
    let (plain, tls, admin) = (many(&listen.plain)?, many(&listen.tls)?, one(listen.admin)?);
    let bound = Bound {
        plain: plain.iter().map(local).collect::<Result<_, _>>()?,
        tls: tls.iter().map(local).collect::<Result<_, _>>()?,
        admin: local(&admin)?,
    };
    let plain = plain.into_iter().map(|listener| (listener, false));
    let public = plain.chain(tls.into_iter().map(|listener| (listener, true))).collect();
    Ok((bound, Listeners { public, admin }))
}

fn surfaces(
    listeners: Vec<(TcpListener, bool)>,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> impl Iterator<Item = (TcpListener, Surface)> {
    listeners.into_iter().map(move |(listener, encrypted)| match (&tls, encrypted) {
        (Some(config), true) => (listener, Surface::Tls(Arc::clone(config))),
        _ => (listener, Surface::Plain),
    })
}

async fn serve_front(front: Front) {
    if let Err(error) = http::serve::serve(front).await {
        tracing::error!(%error, "a listener ended");
    }
}

fn public_runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Builder::new_multi_thread().worker_threads(cores.min(WORKERS_MAX)).thread_name("worker").enable_all().build()
}

/// Starts the inference thread on the opened model, behind the faults that were asked for.
fn start_engine(
    settings: &Settings,
    lifecycle: &Arc<Lifecycle>,
    (opened, limp): (&Opened, Option<Limp>),
    (public, metrics): (&Runtime, &Metrics),
) -> Result<Engine, Refusal> {
    let limits = settings.limits;
    let engine_settings = EngineSettings { queue_jobs_max: limits.queue_jobs, rows_max: limits.rows };
    let otherwise = host::memory_bytes_allowed() / 4 * 3;
    let runner_settings = RunnerSettings {
        rows_max: limits.rows,
        memory: limits.memory_bytes.map_or(MemoryLimit::Recommended { otherwise }, MemoryLimit::Bytes),
        prefix_bytes_max: limits.prefix_cache_bytes,
        coding: opened.coding,
        guesses: Guesses { tokens_max: limits.prompt_lookup, gate: Gate::Measured, counters: metrics.drafts.clone() },
    };
    #[cfg(feature = "fault")]
    let loader = {
        let faults = loading::asked_for(settings).map_err(Refusal::config)?;
        opened.faulty_loader(runner_settings, metrics.prefix_misses.clone(), faults, public.handle().clone())
    };
    #[cfg(not(feature = "fault"))]
    let loader = {
        let _ = public;
        opened.loader(runner_settings, metrics.prefix_misses.clone())
    };
    let (paused, model) = (Arc::clone(lifecycle), opened.card.id.clone());
    let loader = move |progress: &Progress| {
        if let Some(limp) = limp {
            paused.pause.wait(limp.pause);
            paused.phase.leave_crash_loop();
        }
        tracing::info!(model, "loading");
        loader(progress)
    };
    Engine::start(engine_settings, Arc::clone(lifecycle), loader).map_err(Refusal::system)
}

/// The engine is ready or is not; both are told, and the second ends the process.
fn finish_start(
    outcome: Result<(), StartFailure>,
    opened: &Opened,
    state: &State,
    bound: &Bound,
    state_file: &StateFile,
) {
    match outcome {
        Ok(()) => {
            assert!(state.served.set(opened.served()).is_ok(), "set once, here");
            if let Err(error) = state_file.write(bound, &opened.card.id) {
                tracing::warn!(%error, "state/serve.json cannot be written");
            }
            if let Err(error) = self_probe::start(state) {
                tracing::error!(%error, "an idle engine is not asked for tokens: no thread");
            }
            eprintln!("ready: {}, {}", opened.card.id, bound.listening());
        }
        Err(StartFailure::Model(what)) => {
            eprintln!("error: {what}");
            state.lifecycle.exit.give(Order::Now(ExitCode::Config));
        }
        Err(StartFailure::Device(what)) => {
            eprintln!("error: {what}");
            state.lifecycle.exit.give(Order::Now(ExitCode::EngineDead));
        }
    }
}
