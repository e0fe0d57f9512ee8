//! Log lines on stderr or in a file that is rotated, as text or JSON, by threads of their own: a reader of stderr that hangs
//! and a disk that is full cost log lines, never an answer or a deadline. It owns the format and the flush; it refuses to
//! know what is logged, and nothing that it is given by default holds a prompt, an answer or a key.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};

use crate::telemetry::rotated::Rotated;

/// Lines that may wait for a slow reader; further ones are dropped.
const LINES_MAX: usize = 8_192;
/// Shown when the variable below says nothing.
const DEFAULT_FILTER: &str = "info";
/// Chooses what is logged, in the syntax of `tracing-subscriber`'s `EnvFilter`.
const FILTER_VARIABLE: &str = "SANCTUM_MLX_LOG";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Keeps the logging threads; dropping it writes what is waiting.
#[derive(Debug)]
pub struct Logs {
    _workers: Vec<WorkerGuard>,
}

/// Starts logging, to `file` where one is named; errors are then said on stderr too, where whoever starts us looks first.
/// The first call in a process wins; a later one only makes writers that nobody uses.
#[must_use]
pub fn start(format: Format, file: Option<&Path>) -> Logs {
    let (stderr, worker) = thread(io::stderr());
    let mut workers = vec![worker];
    let writer = if let Some(path) = file {
        let (file, worker) = thread(Rotated::at(path));
        workers.push(worker);
        BoxMakeWriter::new(file.and(stderr.with_max_level(Level::ERROR)))
    } else {
        BoxMakeWriter::new(stderr)
    };
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    // A second subscriber is refused; the first one goes on.
    let _ = match format {
        Format::Text => builder.with_ansi(file.is_none() && io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Logs { _workers: workers }
}

fn thread(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).thread_name("log").finish(to)
}
