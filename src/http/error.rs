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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The request is wrong, and with which field.
    Invalid(Invalid),
    /// The token is missing or wrong.
    Unauthorized,
    /// No, or more than one, `Host`.
    HostMissing,
    /// A `Host` that this port does not answer to.
    HostRefused,
    /// A page of another origin asks.
    OriginRefused,
    /// No such route.
    UnknownRoute(String),
    /// A route of OpenAI's that is not served.
    UnservedRoute(String),
    /// No model of that name.
    ModelNotFound(String),
    /// The route knows other methods.
    MethodNotAllowed(&'static str),
    /// The body did not arrive in time.
    BodyTimeout(Duration),
    /// The body is larger than the limit; the size is known when the client declared it.
    BodyTooLarge { limit: u64, size: Option<u64> },
    /// The body broke off.
    BodyBroken,
    /// The body is not declared as JSON.
    NotJson,
    /// More header fields than we read.
    HeadersTooMany,
    /// The queue is full.
    QueueFull { retry_after_seconds: u32 },
    /// The process cannot answer in this phase.
    NotReady { phase: Phase, reason: Option<String>, retry_after_seconds: u32 },
    /// The process is on its way out.
    Draining,
    /// The job failed.
    Failed(Failure),
    /// We made a mistake; the log has it.
    Internal,
}

/// What the client is told.
struct Told {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: String,
    param: Option<String>,
    /// Seconds for `Retry-After`.
    retry_after: Option<u32>,
}

impl Problem {
    /// The one map from what happened to what the client sees.
    fn told(&self) -> Told {
        use StatusCode as S;
        let mistake = |status, code, message: String| Told {
            status,
            kind: "invalid_request_error",
            code,
            message,
            param: None,
            retry_after: None,
        };
        let ours = |status, code, message: String, retry_after| Told {
            status,
            kind: "server_error",
            code,
            message,
            param: None,
            retry_after,
        };
        match self {
            Self::Invalid(invalid) => {
                Told { param: invalid.param.clone(), ..mistake(S::BAD_REQUEST, invalid.code, invalid.message.clone()) }
            }
            Self::Unauthorized => Told {
                kind: "authentication_error",
                ..mistake(S::UNAUTHORIZED, "invalid_api_key", "a valid bearer token is required".to_owned())
            },
            Self::HostMissing => mistake(S::BAD_REQUEST, "invalid_host", "exactly one Host is required".to_owned()),
            Self::HostRefused => mistake(
                S::FORBIDDEN,
                "host_refused",
                "this port does not answer to that Host; see --allowed-host".to_owned(),
            ),
            Self::OriginRefused => {
                mistake(S::FORBIDDEN, "origin_refused", "pages of that Origin may not use this server".to_owned())
            }
            Self::UnknownRoute(path) => mistake(S::NOT_FOUND, "unknown_route", format!("no such route: {path}")),
            Self::UnservedRoute(path) => {
                mistake(S::NOT_FOUND, "unserved_route", format!("{path} is part of OpenAI's API, but not served here"))
            }
            Self::ModelNotFound(name) => Told {
                param: Some("model".to_owned()),
                ..mistake(
                    S::NOT_FOUND,
                    "model_not_found",
                    format!("the model {name:?} is not loaded here; see /v1/models"),
                )
            },
            Self::MethodNotAllowed(allow) => {
                mistake(S::METHOD_NOT_ALLOWED, "method_not_allowed", format!("this route takes {allow}"))
            }
            Self::BodyTimeout(limit) => {
                let message = format!("the body did not arrive within {} s", limit.as_secs_f64());
                mistake(S::REQUEST_TIMEOUT, "body_timeout", message)
            }
            Self::BodyTooLarge { limit, size } => {
                let size = size.map_or_else(|| format!("more than {limit}"), |size| size.to_string());
                let message = format!("the body has {size} bytes; the limit is {limit} bytes");
                mistake(S::PAYLOAD_TOO_LARGE, "body_too_large", message)
            }
            Self::BodyBroken => mistake(S::BAD_REQUEST, "body_incomplete", "the body is incomplete".to_owned()),
            Self::NotJson => {
                let message = "the content type must be application/json".to_owned();
                mistake(S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
            }
            Self::HeadersTooMany => {
                let message = "the request has too many header fields".to_owned();
                mistake(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_many", message)
            }
            Self::QueueFull { retry_after_seconds } => Told {
                kind: "rate_limit_error",
                retry_after: Some(*retry_after_seconds),
                ..mistake(S::TOO_MANY_REQUESTS, "queue_full", "the queue is full; come back later".to_owned())
            },
            Self::NotReady { phase, reason, retry_after_seconds } => {
                let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                let message = format!("the server cannot answer, it is {phase}{reason}");
                ours(S::SERVICE_UNAVAILABLE, phase.as_str(), message, Some(*retry_after_seconds))
            }
            Self::Draining => {
                let message = "the server is shutting down".to_owned();
                ours(S::SERVICE_UNAVAILABLE, "draining", message, Some(RESTART_SECONDS))
            }
            Self::Failed(failure) => {
                let (status, code, retry_after) = match failure {
                    Failure::QueueTimeout => (S::SERVICE_UNAVAILABLE, "queue_timeout", Some(RESTART_SECONDS)),
                    Failure::Row(_) => (S::INTERNAL_SERVER_ERROR, "generation_failed", None),
                    Failure::EngineDead(_) => (S::INTERNAL_SERVER_ERROR, "engine_dead", None),
                    Failure::ShuttingDown => (S::SERVICE_UNAVAILABLE, "shutting_down", Some(RESTART_SECONDS)),
                };
                ours(status, code, failure.to_string(), retry_after)
            }
            Self::Internal => ours(
                S::INTERNAL_SERVER_ERROR,
                "internal",
                "the server made a mistake; its log says more".to_owned(),
                None,
            ),
        }
    }

    /// The envelope as JSON; also the payload of the one error event of a stream.
    pub(crate) fn envelope(&self) -> Vec<u8> {
        let told = self.told();
        let error =
            ErrorBody { message: &told.message, kind: told.kind, param: told.param.as_deref(), code: Some(told.code) };
        serde_json::to_vec(&Envelope { error }).expect("an envelope is plain data")
    }

    /// The whole response.
    pub(crate) fn into_response(self) -> Response<Body> {
        let told = self.told();
        let mut response = reply::json(told.status, self.envelope());
        let headers = response.headers_mut();
        if let Some(seconds) = told.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // The SDKs retry a 408 and every 5xx by themselves; one poison request must not be sent three times.
        if matches!(told.status, StatusCode::REQUEST_TIMEOUT | StatusCode::INTERNAL_SERVER_ERROR) {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        match self {
            Self::MethodNotAllowed(allow) => drop(headers.insert(ALLOW, HeaderValue::from_static(allow))),
            Self::Unauthorized => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            // The rest of the body is not read, so the connection cannot be used again.
            Self::BodyTimeout(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyBroken
            | Self::HostMissing
            | Self::HeadersTooMany => drop(headers.insert(CONNECTION, HeaderValue::from_static("close"))),
            Self::Invalid(_)
            | Self::HostRefused
            | Self::OriginRefused
            | Self::UnknownRoute(_)
            | Self::UnservedRoute(_)
            | Self::ModelNotFound(_)
            | Self::NotJson
            | Self::QueueFull { .. }
            | Self::NotReady { .. }
            | Self::Draining
            | Self::Failed(_)
            | Self::Internal => {}
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
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
