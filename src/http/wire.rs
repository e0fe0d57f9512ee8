//! The bytes of one connection, watched: a client that takes nothing for too long is an error, and a request lands only
//! when its last byte has left for the kernel.
//!
//! hyper drops a response body when it has copied its last frame, which may be long before the socket took it. If that
//! ended the flight, a drain would close the connection over bytes still in our memory. So a finished body hands its
//! guard to the [`Landing`], and the next flush that succeeds, which means that nothing is buffered any more, lets go of
//! it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::drain::InFlight;

/// Requests whose body is gone and whose bytes may still be in our buffers.
#[derive(Debug)]
pub(crate) struct Landing {
    /// `None` once the connection is gone: then there is nothing to wait for.
    waiting: Mutex<Option<Vec<InFlight>>>,
    /// On HTTP/2 a flush does not mean that flow control holds nothing back. From this token on (the begin of a drain)
    /// guards are kept until the connection has ended, which it does once every stream is delivered.
    keep_from: Option<CancellationToken>,
}

impl Landing {
    /// For one response at a time, in order: a flush is the end.
    pub(crate) fn ordered() -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::new(Some(Vec::new())), keep_from: None })
    }

    /// For many streams with flow control of their own.
    pub(crate) fn multiplexed(begun: CancellationToken) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::new(Some(Vec::new())), keep_from: Some(begun) })
    }

    /// A body is gone.
    pub(crate) fn land(&self, guard: InFlight) {
        let mut waiting = self.waiting.lock();
        match waiting.as_mut() {
            Some(list) => list.push(guard),
            None => {
                drop(waiting);
                drop(guard);
            }
        }
    }

    /// Everything written so far has left.
    fn flushed(&self) {
        if self.keep_from.as_ref().is_some_and(CancellationToken::is_cancelled) {
            return;
        }
        let landed = self.waiting.lock().as_mut().map(std::mem::take);
        // Outside the lock: the last guard of a drain wakes every connection.
        drop(landed);
    }

    /// The connection is gone.
    fn closed(&self) {
        let landed = self.waiting.lock().take();
        drop(landed);
    }
}

/// An IO object with a limit on how long a write may stand still.
#[derive(Debug)]
pub(crate) struct Wire<T> {
    io: T,
    landing: Arc<Landing>,
    /// How long a client may take nothing.
    stall: Duration,
    /// Runs while a write or flush is pending.
    standing: Option<Pin<Box<Sleep>>>,
}

impl<T> Wire<T> {
    pub(crate) fn new(io: T, landing: Arc<Landing>, stall: Duration) -> Self {
        Self { io, landing, stall, standing: None }
    }

    /// Lets a result through, or fails when nothing moved for too long.
    fn watch<R>(&mut self, result: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.standing = None;
            return result;
        }
        let stall = self.stall;
        let standing = self.standing.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(standing.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<T> Drop for Wire<T> {
    fn drop(&mut self) {
        self.landing.closed();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(result, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(result, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        ready!(self.watch(result, cx))?;
        self.landing.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(result, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::lifecycle::Lifecycle;

    #[tokio::test]
    async fn l2_a_request_lands_only_when_its_last_byte_has_left() {
        let lifecycle = Lifecycle::new();
        let landing = Landing::ordered();
        let (near, mut far) = duplex(4);
        let mut wire = Wire::new(near, Arc::clone(&landing), Duration::from_secs(60));
        wire.write_all(b"1234").await.expect("four bytes fit");
        landing.land(lifecycle.drain.enter());
        lifecycle.drain.begin();
        assert_eq!(lifecycle.drain.in_flight(), 1);
        let mut read = [0; 4];
        far.read_exact(&mut read).await.expect("four bytes are there");
        wire.flush().await.expect("nothing is buffered");
        assert_eq!(lifecycle.drain.in_flight(), 0);
        assert!(lifecycle.drain.idle().is_cancelled());
        drop(wire);
        landing.land(lifecycle.drain.enter());
        assert_eq!(lifecycle.drain.in_flight(), 0, "a gone connection has nothing to wait for");
    }

    #[tokio::test(start_paused = true)]
    async fn o5_a_client_that_takes_nothing_is_an_error_after_the_limit() {
        let (near, _far) = duplex(4);
        let mut wire = Wire::new(near, Landing::ordered(), Duration::from_secs(60));
        let started = tokio::time::Instant::now();
        let error = wire.write_all(b"12345").await.expect_err("the fifth byte finds no room");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), Duration::from_secs(60));
    }
}
