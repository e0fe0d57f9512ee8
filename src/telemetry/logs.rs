//! Log lines on stderr, as text or JSON, by a thread of their own: a reader of stderr that hangs costs log lines, never
//! an answer or a deadline. It owns the format and the flush; it refuses to know what is logged, and nothing that it is
//! given by default holds a prompt, an answer or a key.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

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

/// Keeps the logging thread; dropping it writes what is waiting.
#[derive(Debug)]
pub struct Logs {
    _worker: WorkerGuard,
}

/// Starts logging. The first call in a process wins; a later one only makes a writer that nobody uses.
#[must_use]
pub fn start(format: Format) -> Logs {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(io::stderr());
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    // A second subscriber is refused; the first one goes on.
    let _ = match format {
        Format::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Logs { _worker: worker }
}
