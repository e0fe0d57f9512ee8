//! Everything that can be wrong with a request, and the one place that maps it to the wire: status, envelope, headers.
//! Messages name the thing and the expected value; they never carry a path of this machine.

use std::time::Duration;

use hyper::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

use crate::api::error::{Envelope, ErrorBody, Invalid};
use crate::http::reply::{self, Body};
use crate::job::Failure;
use crate::lifecycle::phase::Phase;

/// Seconds after which a restarted process is expected to answer again.
const RESTART_SECONDS: u32 = 5;

/// Why a request gets no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// The request is wrong, and with which field.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The token is missing or wrong.
    #[error("a valid bearer token is required")]
    Unauthorized,
    /// No, or more than one, `Host`.
    #[error("exactly one Host is required")]
    HostMissing,
    /// A `Host` that this port does not answer to.
    #[error("this port does not answer to that Host; see --allowed-host")]
    HostRefused,
    /// A page of another origin asks.
    #[error("pages of that Origin may not use this server")]
    OriginRefused,
    /// No such route.
    #[error("no such route: {0}")]
    UnknownRoute(String),
    /// A route of OpenAI's that is not served.
    #[error("{0} is part of OpenAI's API, but not served here")]
    UnservedRoute(String),
    /// No model of that name.
    #[error("the model {0:?} is not loaded here; see /v1/models")]
    ModelNotFound(String),
    /// The route knows other methods.
    #[error("this route takes {0}")]
    MethodNotAllowed(&'static str),
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} s", .0.as_secs_f64())]
    BodyTimeout(Duration),
    /// The body is larger than the limit; the size is known when the client declared it.
    #[error("the body has {} bytes; the limit is {limit} bytes", size_shown(*.size, *.limit))]
    BodyTooLarge { limit: u64, size: Option<u64> },
    /// The body broke off.
    #[error("the body is incomplete")]
    BodyBroken,
    /// The body is not declared as JSON.
    #[error("the content type must be application/json")]
    NotJson,
    /// More header fields than we read.
    #[error("the request has too many header fields")]
    HeadersTooMany,
    /// The queue is full.
    #[error("the queue is full; come back later")]
    QueueFull { retry_after_seconds: u32 },
    /// The request needs more memory than there is, whatever else runs.
    #[error(
        "the request needs {} MiB of memory with the model, and {} MiB may be used; ask for fewer tokens, or start the \
         server with a larger --memory-limit-mb", .bytes.div_ceil(1 << 20), .bytes_max >> 20
    )]
    MemoryShort { bytes: u64, bytes_max: u64 },
    /// The system is short of memory.
    #[error("the machine is short of memory, so nothing new is begun; come back later")]
    Shortage,
    /// The process cannot answer in this phase.
    #[error("the server cannot answer, it is {phase}{}", reason_shown(.reason.as_deref()))]
    NotReady { phase: Phase, reason: Option<String>, retry_after_seconds: u32 },
    /// The process is on its way out.
    #[error("the server is shutting down")]
    Draining,
    /// The job failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// We made a mistake; the log has it.
    #[error("the server made a mistake; its log says more")]
    Internal,
}

fn size_shown(size: Option<u64>, limit: u64) -> String {
    size.map_or_else(|| format!("more than {limit}"), |size| size.to_string())
}

fn reason_shown(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// OpenAI's classes of error.
const MISTAKE: &str = "invalid_request_error";
const OURS: &str = "server_error";

impl Problem {
    /// The one map from what happened to the wire: status, class, code.
    fn told(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Invalid(invalid) => (S::BAD_REQUEST, MISTAKE, invalid.code),
            Self::Unauthorized => (S::UNAUTHORIZED, "authentication_error", "invalid_api_key"),
            Self::HostMissing => (S::BAD_REQUEST, MISTAKE, "invalid_host"),
            Self::HostRefused => (S::FORBIDDEN, MISTAKE, "host_refused"),
            Self::OriginRefused => (S::FORBIDDEN, MISTAKE, "origin_refused"),
            Self::UnknownRoute(_) => (S::NOT_FOUND, MISTAKE, "unknown_route"),
            Self::UnservedRoute(_) => (S::NOT_FOUND, MISTAKE, "unserved_route"),
            Self::ModelNotFound(_) => (S::NOT_FOUND, MISTAKE, "model_not_found"),
            Self::MethodNotAllowed(_) => (S::METHOD_NOT_ALLOWED, MISTAKE, "method_not_allowed"),
            Self::BodyTimeout(_) => (S::REQUEST_TIMEOUT, MISTAKE, "body_timeout"),
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, MISTAKE, "body_too_large"),
            Self::BodyBroken => (S::BAD_REQUEST, MISTAKE, "body_incomplete"),
            Self::NotJson => (S::UNSUPPORTED_MEDIA_TYPE, MISTAKE, "unsupported_media_type"),
            Self::HeadersTooMany => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, MISTAKE, "headers_too_many"),
            Self::QueueFull { .. } => (S::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full"),
            Self::NotReady { phase, .. } => (S::SERVICE_UNAVAILABLE, OURS, phase.as_str()),
            Self::MemoryShort { .. } => (S::SERVICE_UNAVAILABLE, OURS, "memory_short"),
            Self::Shortage => (S::SERVICE_UNAVAILABLE, OURS, "memory_pressure"),
            Self::Draining => (S::SERVICE_UNAVAILABLE, OURS, "draining"),
            Self::Failed(Failure::QueueTimeout) => (S::SERVICE_UNAVAILABLE, OURS, "queue_timeout"),
            Self::Failed(Failure::Row(_)) => (S::INTERNAL_SERVER_ERROR, OURS, "generation_failed"),
            Self::Failed(Failure::EngineDead(_)) => (S::INTERNAL_SERVER_ERROR, OURS, "engine_dead"),
            Self::Failed(Failure::ShuttingDown) => (S::SERVICE_UNAVAILABLE, OURS, "shutting_down"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, OURS, "internal"),
        }
    }

    /// The field at fault.
    fn param(&self) -> Option<&str> {
        if let Self::Invalid(invalid) = self {
            return invalid.param.as_deref();
        }
        matches!(self, Self::ModelNotFound(_)).then_some("model")
    }

    /// Whole seconds for `Retry-After`; every 429 and 503 has them.
    fn retry_after_seconds(&self, status: StatusCode) -> Option<u32> {
        if let Self::QueueFull { retry_after_seconds } | Self::NotReady { retry_after_seconds, .. } = self {
            return Some(*retry_after_seconds);
        }
        (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RESTART_SECONDS)
    }

    /// Whether the rest of the request stays unread, so that the connection cannot be used again.
    fn closes(&self) -> bool {
        matches!(
            self,
            Self::BodyTimeout(_)
                | Self::BodyTooLarge { .. }
                | Self::BodyBroken
                | Self::HostMissing
                | Self::HeadersTooMany
        )
    }

    /// The envelope as JSON; also the payload of the one error event of a stream.
    pub(crate) fn envelope(&self) -> Vec<u8> {
        let (_, kind, code) = self.told();
        let message = self.to_string();
        let error = ErrorBody { message: &message, kind, param: self.param(), code: Some(code) };
        serde_json::to_vec(&Envelope { error }).expect("an envelope is plain data")
    }

    /// The whole response.
    pub(crate) fn into_response(self) -> Response<Body> {
        let (status, ..) = self.told();
        let mut response = reply::json(status, self.envelope());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds(status) {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // The SDKs retry a 408 and every 5xx by themselves; one poison request must not be sent three times.
        if matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR) {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Self::MethodNotAllowed(allow) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_status_an_envelope_and_its_headers() {
        let problems = [
            Problem::Invalid(Invalid::value("top_p", "`top_p` must be a number from 0 to 1, not 2")),
            Problem::Unauthorized,
            Problem::HostMissing,
            Problem::HostRefused,
            Problem::OriginRefused,
            Problem::UnknownRoute("/nowhere".to_owned()),
            Problem::UnservedRoute("/v1/embeddings".to_owned()),
            Problem::ModelNotFound("gpt-5".to_owned()),
            Problem::MethodNotAllowed("GET, HEAD, OPTIONS"),
            Problem::BodyTimeout(Duration::from_secs(30)),
            Problem::BodyTooLarge { limit: 8, size: Some(9) },
            Problem::BodyTooLarge { limit: 8, size: None },
            Problem::BodyBroken,
            Problem::NotJson,
            Problem::HeadersTooMany,
            Problem::QueueFull { retry_after_seconds: 3 },
            Problem::MemoryShort { bytes: 530 << 20, bytes_max: 240 << 20 },
            Problem::Shortage,
            Problem::NotReady { phase: Phase::Stalled, reason: Some("no progress".to_owned()), retry_after_seconds: 2 },
            Problem::Draining,
            Problem::Failed(Failure::QueueTimeout),
            Problem::Failed(Failure::Row("NaN logits".to_owned())),
            Problem::Failed(Failure::EngineDead("panic".to_owned())),
            Problem::Failed(Failure::ShuttingDown),
            Problem::Internal,
        ];
        let mut table = String::new();
        for problem in problems {
            let body = String::from_utf8(problem.envelope()).expect("JSON is UTF-8");
            let response = problem.into_response();
            let headers: Vec<String> = response
                .headers()
                .iter()
                .filter(|(name, _)| *name != "content-type")
                .map(|(name, value)| format!("{name}: {}", value.to_str().expect("our headers are ASCII")))
                .collect();
            table.push_str(&format!("{} {} {body}\n", response.status().as_u16(), headers.join("; ")));
        }
        insta::assert_snapshot!(table);
    }
}
