//! The thread that looks at what lies around the process on disk: its executable and the watchers' files. It owns that
//! this is a thread of its own, for a disk that hangs must hold up nothing else; what is seen, `telemetry` tells.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::platform::executable::Executable;
use crate::telemetry::metrics::Metrics;

/// Looks every `pause` from now on.
///
/// # Errors
/// The system gives no thread.
pub(super) fn watch(
    metrics: &Metrics,
    executable: io::Result<Executable>,
    home: &Path,
    pause: Duration,
) -> io::Result<()> {
    let (integrity, companions) = (metrics.binary_integrity.clone(), metrics.companions.clone());
    let state = home.join("state");
    let watch = move || {
        loop {
            integrity.judge(&executable);
            companions.look(&state);
            thread::park_timeout(pause);
        }
    };
    thread::Builder::new().name("surroundings".to_owned()).spawn(watch).map(drop)
}
