//! Reads a request's body, within a limit of bytes and of time. A body that declares itself too large is refused before
//! a byte of it is read.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;

use crate::http::error::Problem;

/// The whole body.
pub(crate) async fn read(body: Body, limit: u64, time: Duration) -> Result<Bytes, Problem> {
    let declared = body.size_hint().lower();
    if declared > limit {
        return Err(Problem::BodyTooLarge { limit, size: Some(declared) });
    }
    match tokio::time::timeout(time, collect(body, limit)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(Problem::BodyTimeout(time)),
    }
}

async fn collect(mut body: Body, limit: u64) -> Result<Bytes, Problem> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::BodyBroken)?;
        // Trailers carry nothing that we read.
        let Ok(data) = frame.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > limit {
            return Err(Problem::BodyTooLarge { limit, size: None });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}
