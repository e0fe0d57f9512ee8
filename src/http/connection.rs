//! One connection, from accept to close: first byte, TLS, HTTP/1 or HTTP/2, and the ways it has to end. It owns every
//! timeout below the request. hyper's `auto` builder is not used, because it waits for ever for the first byte.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::http::reply::{Carried, Flight, Unfinished};
use crate::http::seats::{Seat, Seated};
use crate::http::serve::Surface;
use crate::http::wire::{Landing, Wire};
use crate::http::{State, router, tls};
use crate::lifecycle::Lifecycle;
use crate::telemetry::metrics::DropLabel;

/// Header fields of one request; more is a 431.
pub(crate) const HEADERS_MAX: usize = 100;
/// Bytes of one head; more is a 431. Also hyper's read buffer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long a connection may go on after the deadline, to tell its client that the stream was cut.
const CUT_GRACE: Duration = Duration::from_millis(500);
/// How long a connection that closes may take to say so.
const GOODBYE: Duration = Duration::from_millis(50);
/// How long, and for how many bytes, a client may still talk after we closed our side: closing over unread bytes would
/// reset the connection and could destroy the response on its way.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES_MAX: usize = 1 << 20;
/// HTTP/2: between two keep-alive pings, and how long an answer may take.
const H2_PING: Duration = Duration::from_secs(20);
const H2_PONG: Duration = Duration::from_secs(10);
/// HTTP/2: open streams of one connection.
const H2_STREAMS_MAX: u32 = 100;
/// HTTP/2: streams the client reset and we have not yet accepted (rapid reset), and those we had to reset
/// (MadeYouReset), before the connection is closed.
const H2_RESETS_MAX: usize = 20;

/// A connection and all that it needs.
pub(crate) struct Guest {
    pub(crate) seated: Seated,
    pub(crate) surface: Surface,
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    /// Where requests go.
    pub(crate) routes: Router,
    /// Runs the streams of HTTP/2.
    pub(crate) tasks: TaskTracker,
}

/// Who asks, as far as the connection tells.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) door: Doorway,
    pub(crate) address: SocketAddr,
    /// The common name of the client's certificate.
    pub(crate) name: Option<String>,
}

impl Peer {
    /// In whose name prompts are computed: a certificate's, or that of everyone at the plain port, who share its token.
    pub(crate) fn scope(&self) -> Arc<str> {
        match self.door {
            // A certificate without a common name is nobody in particular: such clients share a scope among themselves.
            Doorway::Tls => Arc::from(format!("tls:{}", self.name.as_deref().unwrap_or_default())),
            Doorway::Plain | Doorway::Admin => Arc::from("plain"),
        }
    }
}

/// [`Surface`] without its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doorway {
    Plain,
    Tls,
    Admin,
}

/// Why a connection has to end although nobody on it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// A drain has begun and nothing is in flight.
    Idle,
    /// Another connection needs the seat.
    Evicted,
    /// The drain deadline has passed.
    Cut,
}

/// Runs one connection to its end. Nothing here outlives the end of a drain.
pub(crate) async fn run(stream: TcpStream, guest: Guest) {
    // A socket that cannot take the option is about to fail anyway.
    let _ = stream.set_nodelay(true);
    match guest.surface.clone() {
        Surface::Plain => plain(stream, &guest, Doorway::Plain).await,
        Surface::Admin => plain(stream, &guest, Doorway::Admin).await,
        Surface::Tls(config) => secured(stream, config, &guest).await,
    }
}

async fn plain(stream: TcpStream, guest: &Guest, door: Doorway) {
    let first_byte = guest.state.settings.times.first_byte;
    let mut peeked = [0];
    let opened = tokio::select! {
        biased;
        _ = must_leave(&guest.state.lifecycle, &guest.seated.seat) => return,
        opened = timeout(first_byte, stream.peek(&mut peeked)) => opened,
    };
    match opened {
        Ok(Ok(1..)) => ordered(stream, guest, Peer { door, address: guest.address, name: None }).await,
        Ok(Ok(0) | Err(_)) => {}
        Err(_elapsed) => guest.state.metrics.dropped(DropLabel::Silent),
    }
}

async fn secured(stream: TcpStream, config: Arc<ServerConfig>, guest: &Guest) {
    let times = &guest.state.settings.times;
    let shaken = tokio::select! {
        biased;
        _ = must_leave(&guest.state.lifecycle, &guest.seated.seat) => return,
        shaken = timeout(times.tls_handshake, shake_hands(stream, config, guest)) => shaken,
    };
    let mut stream = match shaken {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, address = %guest.address, "TLS handshake failed");
            return guest.state.metrics.dropped(DropLabel::Handshake);
        }
        Err(_elapsed) => return guest.state.metrics.dropped(DropLabel::Handshake),
    };
    let opened = tokio::select! {
        biased;
        _ = must_leave(&guest.state.lifecycle, &guest.seated.seat) => return,
        opened = timeout(times.first_byte, stream.fill_buf()) => opened.map(|read| read.map(<[u8]>::len)),
    };
    match opened {
        Ok(Ok(1..)) => {}
        Ok(Ok(0) | Err(_)) => return,
        Err(_elapsed) => return guest.state.metrics.dropped(DropLabel::Silent),
    }
    let (_, session) = stream.get_ref();
    let name = session.peer_certificates().and_then(|chain| chain.first()).and_then(|end| tls::common_name(end));
    let peer = Peer { door: Doorway::Tls, address: guest.address, name };
    if session.alpn_protocol() == Some(tls::ALPN_H2) {
        multiplexed(stream, guest, peer).await;
    } else {
        ordered(stream, guest, peer).await;
    }
}

/// A handshake, once the client has begun to speak: one that is silent takes no place among the handshakes.
async fn shake_hands(stream: TcpStream, config: Arc<ServerConfig>, guest: &Guest) -> io::Result<TlsStream<TcpStream>> {
    if stream.peek(&mut [0]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let place = guest.seated.seats.handshakes.acquire().await.expect("the semaphore of handshakes is never closed");
    let stream = tokio_rustls::TlsAcceptor::from(config).accept(stream).await;
    drop(place);
    stream
}

/// HTTP/1.1: one request at a time.
async fn ordered<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, guest: &Guest, peer: Peer) {
    let landing = Landing::ordered();
    let times = &guest.state.settings.times;
    let wire = Wire::new(stream, Arc::clone(&landing), times.write_stall);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.headers)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(wire), service(guest, peer, landing));
    let ended = tokio::select! {
        biased;
        leave = must_leave(&guest.state.lifecycle, &guest.seated.seat) => Err(leave),
        result = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => Ok(result),
    };
    let stream = connection.into_parts().io.into_inner();
    match ended {
        Ok(Ok(())) => linger(stream, guest).await,
        Ok(Err(error)) => {
            note(&error, guest);
            // What hyper could not parse was answered with a status that must arrive.
            if error.is_parse() && !error.is_timeout() {
                linger(stream, guest).await;
            }
        }
        Err(leave) => {
            tracing::debug!(?leave, address = %guest.address, "connection closed");
            let mut stream = stream;
            // Whoever does not take our goodbye in time has left already.
            let _ = timeout(GOODBYE, stream.shutdown()).await;
        }
    }
}

/// HTTP/2: many streams, and an end that is announced.
async fn multiplexed<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, guest: &Guest, peer: Peer) {
    let drain = &guest.state.lifecycle.drain;
    let seat = &guest.seated.seat;
    let landing = Landing::multiplexed(drain.begun().clone());
    let times = &guest.state.settings.times;
    let wire = Wire::new(stream, Arc::clone(&landing), times.write_stall);
    let connection = http2::Builder::new(Tracked(guest.tasks.clone()))
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PONG)
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_pending_accept_reset_streams(H2_RESETS_MAX)
        .max_local_error_reset_streams(H2_RESETS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("64 KiB"))
        .serve_connection(TokioIo::new(wire), service(guest, peer, landing));
    let mut connection = pin!(connection);
    let mut leave = pin!(must_leave(&guest.state.lifecycle, seat));
    let mut first_request = pin!(tokio::time::sleep(times.first_byte + times.headers));
    let mut waits_for_first = true;
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            leave = &mut leave => {
                tracing::debug!(?leave, address = %guest.address, "connection closed");
                connection.as_mut().graceful_shutdown();
                // What the client does not take in time was not asked for, or is past the deadline.
                let _ = timeout(GOODBYE, connection).await;
                return;
            }
            () = drain.begun().cancelled(), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut first_request, if waits_for_first => {
                waits_for_first = false;
                if !seat.has_served() {
                    return guest.state.metrics.dropped(DropLabel::Silent);
                }
            }
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    note(&error, guest);
                }
                return;
            }
        }
    }
}

/// Ready when the connection has to end whatever happens on it. Cancel-safe.
async fn must_leave(lifecycle: &Lifecycle, seat: &Seat) -> Leave {
    let cut = async {
        lifecycle.drain.cut_token().cancelled().await;
        tokio::time::sleep(CUT_GRACE).await;
    };
    tokio::select! {
        biased;
        () = lifecycle.drain.idle().cancelled() => Leave::Idle,
        () = seat.evicted.cancelled() => Leave::Evicted,
        () = cut => Leave::Cut,
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Carried>, Infallible>> + Send>>;

/// One request after the other, each in flight from its complete head on.
fn service(
    guest: &Guest,
    peer: Peer,
    landing: Arc<Landing>,
) -> impl HttpService<Incoming, ResBody = Carried, Error = Infallible, Future = Answering> + Unpin + use<> {
    let state = Arc::clone(&guest.state);
    let seat = Arc::clone(&guest.seated.seat);
    let peer = Arc::new(peer);
    let routes = guest.routes.clone();
    service_fn(move |mut request: Request<Incoming>| -> Answering {
        let flight = Flight::enter(&state.lifecycle.drain, &landing, &seat);
        let (state, peer, routes) = (Arc::clone(&state), Arc::clone(&peer), routes.clone());
        // Asked here and once, so that a request counted before the drain began is not refused because of it.
        let is_closing = state.lifecycle.drain.begun().is_cancelled();
        Box::pin(async move {
            let response = if is_closing {
                router::refuse(&state, &peer, &request)
            } else {
                request.extensions_mut().insert(peer);
                let Ok(response) = routes.oneshot(request).await;
                response
            };
            Ok(response.map(|body| Carried::new(body, flight)))
        })
    })
}

/// Closes our side and lets the client finish its sentence, within bounds.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(mut stream: T, guest: &Guest) {
    let goodbye = async {
        stream.shutdown().await?;
        let mut heard = 0;
        let mut buffer = vec![0; 16 << 10];
        while heard < LINGER_BYTES_MAX {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => heard += count,
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        _ = must_leave(&guest.state.lifecycle, &guest.seated.seat) => {}
        // Both an error and the end of patience end the connection.
        _ = timeout(LINGER, goodbye) => {}
    }
}

/// Counts and logs an end that hyper calls an error; nearly always the client's doing.
fn note(error: &hyper::Error, guest: &Guest) {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let is_stall = |cause: &(dyn std::error::Error + 'static)| {
        let timed_out = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
        cause.is::<Unfinished>() || cause.downcast_ref::<io::Error>().is_some_and(timed_out)
    };
    if causes.into_iter().any(is_stall) {
        guest.state.metrics.dropped(DropLabel::WriteStall);
    }
    tracing::debug!(%error, address = %guest.address, "connection ended");
}

/// Runs hyper's HTTP/2 streams as tasks that the accept loop waits for.
#[derive(Debug, Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send + 'static> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
