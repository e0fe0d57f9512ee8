//! Requests to the hub: its list of a repository's files, what it announces about one, and the bytes. It owns redirects
//! (the token goes to the hub only), the limits on what is believed, and what each status means; it refuses to know the
//! cache.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LOCATION, RANGE, RETRY_AFTER,
};
use ureq::http::{HeaderName, Response, StatusCode, Uri};
use ureq::tls::{TlsConfig, TlsProvider};
use ureq::{Agent, Body};

use crate::hub::Access;
use crate::hub::error::HubError;
use crate::hub::name::{self, ModelName};

/// Hops from the hub to where a file is stored.
const REDIRECTS_MAX: usize = 5;
/// Largest list of files that is read.
const LISTING_BYTES_MAX: u64 = 16 << 20;
/// Most time to connect.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest wait that a `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Longest ETag; a SHA-256 has 64 characters.
const ETAG_BYTES_MAX: usize = 96;

/// The hub, as seen by one download.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// A repository at one commit.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit that the revision means now.
    #[serde(rename = "sha")]
    pub(super) commit: String,
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    /// The names of the files at the top of the repository; what has another form is none that a model needs.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.siblings.iter().map(|sibling| sibling.rfilename.as_str()).filter(|file| name::is_part(file))
    }
}

/// What the hub announces about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Where it is asked for.
    pub(super) url: String,
    /// The file's name in the repository.
    pub(super) file: String,
    /// Names the content; of large files it is the SHA-256.
    pub(super) etag: String,
    /// Length of the content.
    pub(super) bytes: u64,
}

impl Remote {
    /// The SHA-256 that the content must have, when the hub announced one.
    pub(super) fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(&self.etag)
    }
}

/// How one try ended without success.
#[derive(Debug)]
pub(super) enum Setback {
    /// Trying again may help; the hub may have said when.
    Passing { why: String, after: Option<Duration> },
    /// Trying again is of no use.
    Final(HubError),
}

/// A body, and the byte of the file that it begins with.
pub(super) struct Bytes {
    pub(super) first: u64,
    pub(super) body: Box<dyn Read>,
}

impl Client {
    pub(super) fn new(access: &Access) -> Self {
        // The provider is named, so that no other choice in the process can change it.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls =
            TlsConfig::builder().provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(provider).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("sanctum-mlx/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIME_MAX))
            .timeout_per_read(Some(access.silence_max))
            .timeout_per_write(Some(access.silence_max))
            .build()
            .new_agent();
        let endpoint = access.endpoint.trim_end_matches('/').to_owned();
        Self { agent, endpoint, token: access.token.clone() }
    }

    /// Where the files of a repository are listed.
    pub(super) fn listing_url(&self, model: &ModelName) -> String {
        let revision = model.revision.replace('/', "%2F");
        format!("{}/api/models/{}/revision/{revision}", self.endpoint, model.repository())
    }

    pub(super) fn listing(&self, model: &ModelName) -> Result<Listing, Setback> {
        let url = self.listing_url(model);
        let mut response = self.follow(&url, &Request::Get { from: 0 })?.response;
        expect_success(&url, &response)?;
        let listing = response.body_mut().with_config().limit(LISTING_BYTES_MAX).read_to_vec().map_err(passing)?;
        let listing: Listing = serde_json::from_slice(&listing)
            .map_err(|error| Setback::Final(HubError::protocol(&url, format!("expected a list of files: {error}"))))?;
        if !name::is_part(&listing.commit) {
            return Err(Setback::Final(HubError::protocol(&url, "expected a commit in sha")));
        }
        Ok(listing)
    }

    /// Where a file of a commit is.
    pub(super) fn file_url(&self, model: &ModelName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.endpoint, model.repository())
    }

    /// Asks what a file is before its bytes are asked for.
    pub(super) fn announce(&self, url: &str, file: &str) -> Result<Remote, Setback> {
        let answer = self.follow(url, &Request::Head)?;
        let header = |linked: &'static str, plain: HeaderName| {
            let headers = answer.response.headers();
            let value = headers.get(linked).or_else(|| headers.get(&plain).filter(|_| !answer.leaves_the_hub));
            value.and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        if !answer.leaves_the_hub {
            expect_success(url, &answer.response)?;
        }
        let etag = header("x-linked-etag", ETAG).map(|etag| etag.trim_start_matches("W/").replace('"', ""));
        let etag = etag.filter(|etag| name::is_part(etag) && etag.len() <= ETAG_BYTES_MAX);
        let bytes = header("x-linked-size", CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let (Some(etag), Some(bytes)) = (etag, bytes) else {
            return Err(Setback::Final(HubError::protocol(url, "expected an etag and a size in the answer's headers")));
        };
        Ok(Remote { url: url.to_owned(), file: file.to_owned(), etag, bytes })
    }

    /// The bytes of a file from `from` on, or from the beginning if the server has no ranges.
    pub(super) fn bytes(&self, remote: &Remote, from: u64) -> Result<Bytes, Setback> {
        let response = self.follow(&remote.url, &Request::Get { from })?.response;
        if from > 0 && response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return self.bytes(remote, 0);
        }
        expect_success(&remote.url, &response)?;
        let first = if response.status() == StatusCode::PARTIAL_CONTENT { from } else { 0 };
        if let Some(range) = response.headers().get(CONTENT_RANGE).filter(|_| first > 0) {
            let expected = format!("bytes {first}-");
            if !range.to_str().is_ok_and(|range| range.starts_with(&expected)) {
                let why = format!("expected content-range {expected}…, found {range:?}");
                return Err(Setback::Final(HubError::protocol(&remote.url, why)));
            }
        }
        Ok(Bytes { first, body: Box::new(response.into_body().into_reader()) })
    }

    /// Sends a request and follows redirects by hand, so that the token stays with the hub and a `HEAD` ends where
    /// the hub hands over to a store: the hub's own answer has the file's real ETag.
    fn follow(&self, url: &str, request: &Request) -> Result<Answer, Setback> {
        let mut at: Uri = url.parse().map_err(|_| Setback::Final(HubError::protocol(url, "expected a URL")))?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.send(&at, request).map_err(passing)?;
            if !response.status().is_redirection() {
                return Ok(Answer { response, leaves_the_hub: false });
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| join(&at, location)).ok_or_else(|| {
                Setback::Final(HubError::protocol(url, format!("expected a usable location, found {location:?}")))
            })?;
            if matches!(request, Request::Head) && !same_origin(&at, &next) {
                return Ok(Answer { response, leaves_the_hub: true });
            }
            at = next;
        }
        Err(Setback::Final(HubError::protocol(url, format!("expected at most {REDIRECTS_MAX} redirects"))))
    }

    fn send(&self, url: &Uri, request: &Request) -> Result<Response<Body>, ureq::Error> {
        let mut call = match request {
            Request::Head => self.agent.head(url),
            Request::Get { .. } => self.agent.get(url),
        };
        // Lengths and ranges are of the file itself.
        call = call.header(ACCEPT_ENCODING, "identity");
        if let Request::Get { from: from @ 1.. } = request {
            call = call.header(RANGE, format!("bytes={from}-"));
        }
        let is_hub = self.endpoint.parse::<Uri>().is_ok_and(|endpoint| same_origin(&endpoint, url));
        if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
            call = call.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        call.call()
    }
}

enum Request {
    Head,
    Get { from: u64 },
}

struct Answer {
    response: Response<Body>,
    /// It is the hub's redirect to a store of another origin.
    leaves_the_hub: bool,
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.authority() == b.authority()
}

/// A `location`: absolute or of the same origin, and never from TLS to plain.
fn join(at: &Uri, location: &str) -> Option<Uri> {
    let next: Uri = if location.starts_with('/') && !location.starts_with("//") {
        format!("{}://{}{location}", at.scheme_str()?, at.authority()?).parse().ok()?
    } else {
        location.parse().ok()?
    };
    let downgraded = at.scheme_str() == Some("https") && next.scheme_str() != Some("https");
    (next.host().is_some() && !downgraded).then_some(next)
}

pub(super) fn passing(error: impl std::fmt::Display) -> Setback {
    Setback::Passing { why: error.to_string(), after: None }
}

fn expect_success(url: &str, response: &Response<Body>) -> Result<(), Setback> {
    let url = url.to_owned();
    match response.status().as_u16() {
        200 | 206 => Ok(()),
        status @ (401 | 403) => Err(Setback::Final(HubError::Denied { url, status })),
        404 => Err(Setback::Final(HubError::Absent { url })),
        status @ (408 | 425 | 429 | 500..=599) => {
            let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let after = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
            Err(Setback::Passing { why: format!("the hub answered with status {status}"), after })
        }
        status => Err(Setback::Final(HubError::protocol(&url, format!("expected status 200, found {status}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_absolute_or_of_the_same_origin_and_never_weaker() {
        let at: Uri = "https://hub.test/a/b".parse().expect("a URL");
        let joined = |location| join(&at, location).map(|uri| uri.to_string());
        assert_eq!(joined("/c?d=e").as_deref(), Some("https://hub.test/c?d=e"));
        assert_eq!(joined("https://store.test/x").as_deref(), Some("https://store.test/x"));
        for location in ["http://store.test/x", "//store.test/x", "x", "", "ftp://store.test/x"] {
            assert_eq!(joined(location), None, "{location}");
        }
    }
}
