//! Response bodies: whole, or a stream whose frames a task hands over. A body carries its request's [`Flight`], so a
//! request is in flight for as long as its body exists, and its seat is busy.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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

/// The body of a response.
#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    /// Dropped with the body; `None` until the response leaves the router.
    _flight: Option<Flight>,
}

#[derive(Debug)]
enum Content {
    /// All bytes are here; empty when they were taken.
    Whole(Bytes),
    /// Frames come from a task until it drops its end.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { content: Content::Whole(bytes.into()), _flight: None }
    }

    pub(crate) fn stream(frames: mpsc::Receiver<Bytes>) -> Self {
        Self { content: Content::Stream(frames), _flight: None }
    }

    /// Ties the request's flight to this body.
    pub(crate) fn carrying(self, flight: Flight) -> Self {
        Self { _flight: Some(flight), ..self }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(frames) => frames.poll_recv(cx).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
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
