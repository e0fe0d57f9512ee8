//! Health and metrics on a thread and a runtime of their own, so that a saturated public runtime cannot starve a probe.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crate::http::State;
use crate::http::seats::Seats;
use crate::http::serve::{Front, Surface, serve};

/// Connections to the admin listener; probes need few.
const CONNECTIONS_MAX: usize = 32;

/// Starts the thread named `admin`. It ends with the drain, as every listener does.
///
/// # Errors
/// The system gives no thread or no runtime.
pub fn spawn(listener: TcpListener, state: Arc<State>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Builder::new().name("admin".to_owned()).spawn(move || {
        let seats = Seats::new(CONNECTIONS_MAX, 0, Arc::clone(&state.metrics));
        let front = Front { listener, surface: Surface::Admin, seats, state };
        if let Err(error) = runtime.block_on(serve(front)) {
            tracing::error!(%error, "the admin listener failed");
        }
    })
}
