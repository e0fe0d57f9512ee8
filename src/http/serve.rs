//! The accept loop of one listener. It owns the listener and the tasks of its connections; it returns when the drain has
//! begun and every connection has ended. Not `axum::serve`, which installs no timer and waits for ever on two bytes of a
//! half-sent request.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio_util::task::TaskTracker;

use crate::http::connection::{self, Guest};
use crate::http::seats::Seats;
use crate::http::{State, router};

/// After a failed accept; such errors are weather (no descriptors, no buffers) and pass.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Which of our doors a connection came through.
#[derive(Debug, Clone)]
pub enum Surface {
    /// HTTP/1.1 without TLS; asks for `Host`, `Origin` and the token.
    Plain,
    /// TLS with a client certificate; HTTP/1.1 or HTTP/2 by ALPN.
    Tls(Arc<ServerConfig>),
    /// Health and metrics only, loopback.
    Admin,
}

/// One listener and what it serves.
pub struct Front {
    /// Bound, listening and non-blocking.
    pub listener: TcpListener,
    /// How it is spoken to.
    pub surface: Surface,
    /// Seats that it shares with other listeners.
    pub seats: Arc<Seats>,
    /// What requests look at.
    pub state: Arc<State>,
}

/// Serves until the drain has begun and every connection has ended. The listener is closed at the begin of the drain.
///
/// # Errors
/// The runtime cannot take the listener.
pub async fn serve(front: Front) -> io::Result<()> {
    let Front { listener, surface, seats, state } = front;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let connections = TaskTracker::new();
    let routes = router::routes(&state);
    let begun = state.lifecycle.drain.begun().clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = begun.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_peers(&error) => continue,
            Err(error) => {
                state.metrics.accept_errors.inc();
                tracing::warn!(%error, "accept failed; going on in a second");
                tokio::select! {
                    () = begun.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        let seated = tokio::select! {
            biased;
            () = begun.cancelled() => break,
            seated = seats.take() => seated,
        };
        let guest = Guest {
            seated,
            surface: surface.clone(),
            address,
            state: Arc::clone(&state),
            routes: routes.clone(),
            tasks: connections.clone(),
        };
        connections.spawn(connection::run(stream, guest));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// The one who connected gave up before we accepted; nothing is wrong with us.
fn is_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
