//! Response bodies: whole, or a stream whose frames a task hands over. On its way to the client a body carries its
//! request's [`Flight`], so a request is in flight for as long as its body exists, and its seat is busy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use crate::http::seats::Seat;
use crate::http::wire::Landing;
use crate::lifecycle::drain::{Drain, InFlight};

/// A request from its complete head to the end of its response; see [`Landing`] for what comes after.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Taken by `drop` only.
    guard: Option<InFlight>,
    landing: Arc<Landing>,
    seat: Arc<Seat>,
}

impl Flight {
    pub(crate) fn enter(drain: &Drain, landing: &Arc<Landing>, seat: &Arc<Seat>) -> Self {
        seat.busy();
        Self { guard: Some(drain.enter()), landing: Arc::clone(landing), seat: Arc::clone(seat) }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            self.landing.land(guard);
        }
        self.seat.free();
    }
}

/// What a handler answers with.
#[derive(Debug)]
pub(crate) struct Body(Content);

/// A body on its way to the client, with the request's flight: dropped together.
#[derive(Debug)]
pub(crate) struct Carried {
    body: axum::body::Body,
    _flight: Flight,
}

impl Carried {
    pub(crate) fn new(body: axum::body::Body, flight: Flight) -> Self {
        Self { body, _flight: flight }
    }
}

impl http_body::Body for Carried {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug)]
enum Content {
    /// All bytes are here; empty when they were taken.
    Whole(Bytes),
    /// Parts come from a task until the last one.
    Stream(mpsc::Receiver<Part>),
}

/// A part of a streamed body.
#[derive(Debug)]
pub(crate) enum Part {
    /// There is more to come.
    More(Bytes),
    /// The body is complete with this.
    Last(Bytes),
}

/// The task that wrote the body went away before its end: the client was too slow, or we made a mistake. The connection
/// is broken off then, because a body that merely ended would look complete.
#[derive(Debug, thiserror::Error)]
#[error("the stream was given up before its end")]
pub(crate) struct Unfinished;

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self(Content::Whole(bytes.into()))
    }

    pub(crate) fn stream(parts: mpsc::Receiver<Part>) -> Self {
        Self(Content::Stream(parts))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Unfinished;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Unfinished>>> {
        let parts = match &mut self.0 {
            Content::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Content::Whole(bytes) => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(parts) => parts,
        };
        match ready!(parts.poll_recv(cx)) {
            Some(Part::More(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Part::Last(bytes)) => {
                self.0 = Content::Whole(Bytes::new());
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            None => Poll::Ready(Some(Err(Unfinished))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// A whole response of JSON.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response<Body> {
    typed(status, "application/json", body)
}

/// A whole response of a media type of ours.
pub(crate) fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_was_given_up_never_looks_complete() {
        let (parts, taken) = mpsc::channel(4);
        parts.send(Part::More(Bytes::from_static(b"a"))).await.expect("room");
        parts.send(Part::Last(Bytes::from_static(b"b"))).await.expect("room");
        drop(parts);
        let whole = Body::stream(taken).collect().await.expect("it has its last part");
        assert_eq!(whole.to_bytes(), "ab");

        let (parts, taken) = mpsc::channel(4);
        parts.send(Part::More(Bytes::from_static(b"a"))).await.expect("room");
        drop(parts);
        assert!(Body::stream(taken).collect().await.is_err());
    }
}
