//! The engine: one thread that admits, steps and publishes. It owns the queue, the rows and the terminal event of every
//! job; it refuses to know `mlx_rs`, strings, status codes and model names.

mod admit;
pub mod backend;
mod channel;
mod command;
#[cfg(feature = "fault")]
pub mod fault;
pub mod handle;
mod pace;
pub mod probe;
mod row;
mod scheduler;
mod seam;
pub mod stepped;
mod thread;
mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::Builder;

use tokio::sync::oneshot;

use crate::lifecycle::Lifecycle;
use crate::lifecycle::heartbeat::Unit;
use crate::lifecycle::phase::Phase;
use backend::{Backend, Capacity};
use channel::Inbox;
use handle::{Handle, Shared};
use thread::{Inference, panic_message};

/// Stack of the inference thread, in bytes: a lazily built graph is freed recursively.
const STACK_BYTES: usize = 16 << 20;

/// What the engine needs to know.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Jobs accepted and not yet admitted.
    pub queue_jobs_max: u32,
    /// Rows generated at once, if the backend takes as many.
    pub rows_max: u32,
}

/// Why there is no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartFailure {
    /// The model cannot be used; its owner can mend that.
    #[error("{0}")]
    Model(String),
    /// The device or the program failed.
    #[error("{0}")]
    Device(String),
}

/// A running engine, before and after it is ready.
#[derive(Debug)]
pub struct Engine {
    /// The way to submit.
    pub handle: Handle,
    /// Told once: what the engine can take, after one real token, or why there is none.
    pub started: oneshot::Receiver<Result<Capacity, StartFailure>>,
    /// Told once, when the thread has dropped its arrays.
    pub ended: oneshot::Receiver<()>,
}

/// Handed to the loader, which calls it for each tensor and each token of warm-up.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Lifecycle>);

impl Progress {
    /// A bounded unit of loading finished.
    pub fn beat(&self, unit: Unit) {
        self.0.heartbeat.beat(unit);
    }
}

impl Engine {
    /// Starts the thread named `inference`, which calls `load`, generates one real token and then serves. Returns at
    /// once; [`Engine::started`] tells the outcome, and only then is the phase `Ready`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start<B, L>(settings: EngineSettings, lifecycle: Arc<Lifecycle>, load: L) -> std::io::Result<Self>
    where
        B: Backend,
        L: FnOnce(&Progress) -> Result<B, StartFailure> + Send + 'static,
    {
        let (commands, inbox) = channel::commands(settings.queue_jobs_max);
        let shared = Arc::new(Shared::new(settings.queue_jobs_max));
        let handle = Handle::new(commands, Arc::clone(&lifecycle), Arc::clone(&shared));
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        Builder::new().name("inference".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            // The thread is never joined: a hang in native code must not hold the process. `ended` tells instead.
            match load_and_prove(settings, inbox, &lifecycle, &shared, load) {
                Ok(inference) => {
                    let capacity = inference.capacity();
                    shared.capacity.set(capacity).expect("one thread sets it once");
                    lifecycle.phase.advance(Phase::Ready);
                    // The receiver may have left: the process is on its way out.
                    let _ = tell_started.send(Ok(capacity));
                    inference.run_to_end();
                }
                Err(failure) => {
                    let _ = tell_started.send(Err(failure));
                }
            }
            let _ = tell_ended.send(());
        })?;
        Ok(Self { handle, started, ended })
    }
}

/// Loads behind a panic boundary and generates the first token.
fn load_and_prove<B, L>(
    settings: EngineSettings,
    inbox: Inbox,
    lifecycle: &Arc<Lifecycle>,
    shared: &Arc<Shared>,
    load: L,
) -> Result<Inference<B>, StartFailure>
where
    B: Backend,
    L: FnOnce(&Progress) -> Result<B, StartFailure>,
{
    let progress = Progress(Arc::clone(lifecycle));
    let proved = catch_unwind(AssertUnwindSafe(|| {
        let backend = load(&progress)?;
        let mut inference =
            Inference::new(backend, settings.rows_max, inbox, Arc::clone(lifecycle), Arc::clone(shared));
        inference.prove().map_err(|fault| StartFailure::Device(format!("the first token failed: {fault}")))?;
        Ok(inference)
    }));
    proved.unwrap_or_else(|panic| {
        Err(StartFailure::Device(format!("panic while loading: {}", panic_message(panic.as_ref()))))
    })
}

#[cfg(test)]
mod tests;
