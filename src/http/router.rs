//! From a request to its handler, and what every response has in common: the request's id, the instance, the count by
//! status. It owns the table of routes; what a route does is in its own file.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::rejection::PathRejection;
use axum::extract::{self, Extension, Path};
use axum::routing::any;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONNECTION,
    CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use uuid::Uuid;

use crate::http::chat::Chat;
use crate::http::completions::Completions;
use crate::http::connection::{Doorway, HEADERS_MAX, Peer};
use crate::http::error::Problem;
use crate::http::reply::Body;
use crate::http::{State, generate, health, models, page, tokens};
use crate::lifecycle::phase::Phase;

/// Bytes of a request id that a client may choose.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Bytes of a path that an error repeats.
const PATH_BYTES_SHOWN: usize = 128;

/// Routes of OpenAI's and of our own contract that this version does not serve, with everything below them.
const UNSERVED: &[&str] = &[
    "/openapi.json",
    "/v1/assistants",
    "/v1/audio",
    "/v1/batches",
    "/v1/embeddings",
    "/v1/files",
    "/v1/fine_tuning",
    "/v1/images",
    "/v1/moderations",
    "/v1/responses",
    "/v1/threads",
    "/v1/uploads",
    "/v1/vector_stores",
];

/// Everything that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    Models,
    /// The id, decoded; it may contain slashes.
    Model(String),
    Chat,
    Completions,
    Tokenize,
    Detokenize,
    Live,
    Ready,
    Health,
    Metrics,
    Page,
}

impl Route {
    fn allow(&self) -> &'static str {
        if self.takes_body() { "POST, OPTIONS" } else { "GET, HEAD, OPTIONS" }
    }

    /// Whether it reads a body, and so is no reading.
    fn takes_body(&self) -> bool {
        match self {
            Self::Chat | Self::Completions | Self::Tokenize | Self::Detokenize => true,
            Self::Models | Self::Model(_) | Self::Live | Self::Ready | Self::Health | Self::Metrics | Self::Page => {
                false
            }
        }
    }

    /// Whether the admin listener serves it too: what must answer while the public runtime is saturated.
    fn is_admin(&self) -> bool {
        match self {
            Self::Live | Self::Ready | Self::Health | Self::Metrics => true,
            Self::Models
            | Self::Model(_)
            | Self::Chat
            | Self::Completions
            | Self::Tokenize
            | Self::Detokenize
            | Self::Page => false,
        }
    }

    /// The word in the log; ids and paths of clients stay out of it.
    fn name(&self) -> &'static str {
        match self {
            Self::Models => "models",
            Self::Model(_) => "model",
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Tokenize => "tokenize",
            Self::Detokenize => "detokenize",
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Page => "page",
        }
    }
}

/// Routes without a variable part.
static FIXED: [(&str, Route); 10] = [
    ("/", Route::Page),
    ("/v1/models", Route::Models),
    ("/v1/chat/completions", Route::Chat),
    ("/v1/completions", Route::Completions),
    ("/v1/tokenize", Route::Tokenize),
    ("/v1/detokenize", Route::Detokenize),
    ("/health/live", Route::Live),
    ("/health/ready", Route::Ready),
    ("/health", Route::Health),
    ("/metrics", Route::Metrics),
];
/// [`Route::Model`].
const MODEL: &str = "/v1/models/{*id}";

/// What of a request its response repeats or its log line names.
struct Caller {
    arrived: Instant,
    id: HeaderValue,
    /// An origin that may read our responses.
    origin: Option<HeaderValue>,
    route: &'static str,
}

/// The table of routes. Every method comes to the same handler, which checks the door before it judges the method.
pub(crate) fn routes(state: &Arc<State>) -> Router {
    let mut router = Router::new();
    for (path, route) in FIXED.iter().cloned() {
        let handler = |extract::State(state): extract::State<Arc<State>>,
                       Extension(peer): Extension<Arc<Peer>>,
                       request| async move { answer(&state, &peer, request, Ok(route)).await };
        router = router.route(path, any(handler));
    }
    router.route(MODEL, any(model)).fallback(nothing).with_state(Arc::clone(state))
}

/// A model by its id, decoded; ids with slashes work raw and encoded.
async fn model(
    id: Result<Path<String>, PathRejection>,
    extract::State(state): extract::State<Arc<State>>,
    Extension(peer): Extension<Arc<Peer>>,
    request: Request<AxumBody>,
) -> Response<AxumBody> {
    let route = id.map(|Path(id)| Route::Model(id)).map_err(|_| unknown(request.uri().path()));
    answer(&state, &peer, request, route).await
}

async fn nothing(
    extract::State(state): extract::State<Arc<State>>,
    Extension(peer): Extension<Arc<Peer>>,
    request: Request<AxumBody>,
) -> Response<AxumBody> {
    let route = Err(unknown(request.uri().path()));
    answer(&state, &peer, request, route).await
}

/// Answers one request; every way out of it has an id, an instance and a count.
async fn answer(
    state: &Arc<State>,
    peer: &Peer,
    request: Request<AxumBody>,
    route: Result<Route, Problem>,
) -> Response<AxumBody> {
    let caller = Caller::new(state, &request, route.as_ref().map_or("none", Route::name));
    let answered = admit(state, peer, request, route, caller.arrived).await;
    stamped(state, peer, &caller, answered.unwrap_or_else(Problem::into_response)).map(AxumBody::new)
}

/// Tells one who asks during a drain, on a connection that then closes (L3).
pub(crate) fn refuse(state: &State, peer: &Peer, request: &Request<impl Sized>) -> Response<AxumBody> {
    let caller = Caller::new(state, request, "none");
    let mut response = stamped(state, peer, &caller, leaving(state).into_response());
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response.map(AxumBody::new)
}

impl Caller {
    fn new(state: &State, request: &Request<impl Sized>, route: &'static str) -> Self {
        let origin = request.headers().get(ORIGIN).filter(|origin| state.door.knows_origin(origin)).cloned();
        Self { arrived: Instant::now(), id: request_id(request.headers()), origin, route }
    }
}

/// Adds what every response has in common, counts it and logs it.
fn stamped(state: &State, peer: &Peer, caller: &Caller, mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert("x-request-id", caller.id.clone());
    headers.insert("x-sanctum-instance", HeaderValue::from_str(&state.instance).expect("the instance is a UUID"));
    if let Some(origin) = &caller.origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(VARY, HeaderValue::from_static("origin"));
    }
    let status = response.status().as_u16();
    state.metrics.responded(status);
    let (id, client) = (caller.id.to_str().unwrap_or_default(), peer.name.as_deref().unwrap_or_default());
    let milliseconds = caller.arrived.elapsed().as_secs_f64() * 1e3;
    tracing::debug!(id, route = caller.route, status, milliseconds, client, address = %peer.address, "response begins");
    response
}

/// Why nothing is answered any more.
fn leaving(state: &State) -> Problem {
    match state.lifecycle.phase.now() {
        Phase::Dead => health::check_answering(state).expect_err("a dead engine cannot answer"),
        Phase::Starting
        | Phase::CrashLoop
        | Phase::Loading
        | Phase::Ready
        | Phase::Degraded
        | Phase::Stalled
        | Phase::Draining => Problem::Draining,
    }
}

/// Checks the head, then hands over to the route.
async fn admit(
    state: &Arc<State>,
    peer: &Peer,
    request: Request<AxumBody>,
    route: Result<Route, Problem>,
    arrived: Instant,
) -> Result<Response<Body>, Problem> {
    if request.headers().len() > HEADERS_MAX {
        return Err(Problem::HeadersTooMany);
    }
    let (head, body) = request.into_parts();
    // A browser's preflight carries no token, so `OPTIONS` is answered on the strength of Host and Origin alone.
    match state.door.check(peer.door, &head) {
        Err(Problem::Unauthorized) if head.method == Method::OPTIONS => {}
        checked => checked?,
    }
    let route = route?;
    if peer.door == Doorway::Admin && !route.is_admin() {
        return Err(unknown(head.uri.path()));
    }
    if head.method == Method::OPTIONS {
        return Ok(options(&route));
    }
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    match (is_read, route) {
        (true, Route::Models) => models::list(state),
        (true, Route::Model(id)) => models::one(state, &id),
        (true, Route::Live) => Ok(health::live()),
        (true, Route::Ready) => health::ready(state),
        (true, Route::Health) => Ok(health::report(state)),
        (true, Route::Metrics) => Ok(health::metrics(state)),
        (true, Route::Page) => Ok(page::page(state, peer.door, &head)),
        (false, route) if head.method == Method::POST => post(state, peer, route, (&head, body), arrived).await,
        (_, route) => Err(Problem::MethodNotAllowed(route.allow())),
    }
}

/// The routes that read a body.
async fn post(
    state: &Arc<State>,
    peer: &Peer,
    route: Route,
    (head, body): (&Parts, AxumBody),
    arrived: Instant,
) -> Result<Response<Body>, Problem> {
    if route.takes_body() && !is_json(&head.headers) {
        return Err(Problem::NotJson);
    }
    match route {
        Route::Chat => generate::answer::<Chat>(state, peer, head, body, arrived).await,
        Route::Completions => generate::answer::<Completions>(state, peer, head, body, arrived).await,
        Route::Tokenize => tokens::tokenize(state, body).await,
        Route::Detokenize => tokens::detokenize(state, body).await,
        Route::Models | Route::Model(_) | Route::Live | Route::Ready | Route::Health | Route::Metrics | Route::Page => {
            Err(Problem::MethodNotAllowed(route.allow()))
        }
    }
}

fn options(route: &Route) -> Response<Body> {
    let mut response = Response::new(Body::whole(Vec::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(route.allow()));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(route.allow()));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type, x-request-id, x-request-timeout"),
    );
    response
}

fn unknown(path: &str) -> Problem {
    let below = |route: &&&str| path.strip_prefix(**route).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match UNSERVED.iter().find(below) {
        Some(route) => Problem::UnservedRoute((*route).to_owned()),
        None => Problem::UnknownRoute(path.chars().take(PATH_BYTES_SHOWN).collect()),
    }
}

/// The client's id if it is one that a log may carry, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    let given = headers.get("x-request-id").filter(|id| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(is_plain)
    });
    given.cloned().unwrap_or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).expect("a UUID is ASCII"))
}

/// `application/json`, or a type that is JSON by its suffix. A page can send `text/plain` without asking us first (H11).
fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_openais_that_is_not_served_says_so() {
        for path in ["/v1/embeddings", "/v1/audio/speech", "/v1/responses"] {
            assert!(matches!(unknown(path), Problem::UnservedRoute(_)), "{path}");
        }
        for path in ["/v1/embeddingsx", "/v1", "", "/health/"] {
            assert!(matches!(unknown(path), Problem::UnknownRoute(_)), "{path}");
        }
    }

    #[test]
    fn a_request_id_is_honoured_only_if_a_log_may_carry_it() {
        let check = |id: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-request-id", HeaderValue::from_static(id));
            request_id(&headers) == id
        };
        assert!(check("req_1-a.b:c"));
        assert!(!check("") && !check("a b") && !check("a\"b"));
        assert!(Uuid::parse_str(request_id(&HeaderMap::new()).to_str().expect("ASCII")).is_ok());
    }

    #[test]
    fn h11_only_json_is_json() {
        let check = |media_type: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            is_json(&headers)
        };
        assert!(
            check("application/json") && check("Application/JSON; charset=utf-8") && check("application/vnd.x+json")
        );
        assert!(
            !check("text/plain") && !check("") && !check("application/x-www-form-urlencoded") && !check("text/x+json")
        );
        assert!(!is_json(&HeaderMap::new()));
    }
}
