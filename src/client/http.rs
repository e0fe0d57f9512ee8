//! One server, one way to reach it, one deadline. It owns certificates in hand and the bounds of a reply; it refuses
//! proxies, redirects and the machine's root store: a probe must reach this server and no other. A status is an answer
//! here, not an error.

use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, BodyReader};

use crate::client::sse::Events;

/// Largest whole reply that is read.
const REPLY_BYTES_MAX: u64 = 16 << 20;
/// Largest certificate or key file that is read.
const MATERIAL_BYTES_MAX: u64 = 1 << 20;

/// The bytes of a stream as they come.
pub type Stream = BufReader<BodyReader<'static>>;

/// The files with which a client and its server know each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The authority that the server's certificate must chain to.
    pub ca: PathBuf,
    /// The certificate that we show.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A certificate or key file cannot be used; nothing was sent.
    #[error("{}: {wrong}", path.display())]
    Material {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// The URL and the certificates do not belong together, or the URL is none.
    #[error("{0}")]
    Url(String),
    /// The deadline passed.
    #[error("no whole answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The connection, the handshake or the protocol failed.
    #[error("{0}")]
    Transport(String),
    /// A stream was asked for, and the server answered with a status that has none.
    #[error("refused with {status}: {said}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        said: String,
    },
    /// The reply is not what was asked for.
    #[error("{0}")]
    Reply(String),
}

/// A way to one server.
#[derive(Debug, Clone)]
pub struct Client {
    agent: Agent,
    /// The scheme and authority, without a slash at the end.
    base: String,
    /// For the words of a timeout.
    timeout: Duration,
}

/// A whole reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The server's name for the request, when it gave one.
    pub request_id: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client of `url`; with `identity` over mutual TLS, and then `url` must be https. `timeout` bounds a whole call.
    ///
    /// # Errors
    /// A file cannot be used, or the URL does not fit the identity: there is no silent downgrade.
    pub fn new(url: &str, identity: Option<&Identity>, timeout: Duration) -> Result<Self, ClientError> {
        let base = url.trim_end_matches('/').to_owned();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(timeout))
            .user_agent(concat!("sanctum-mlx/", env!("CARGO_PKG_VERSION")));
        let config = match (base.split_once("://").map(|(scheme, _)| scheme), identity) {
            (Some("https"), Some(identity)) => config.https_only(true).tls_config(tls(identity)?).build(),
            (Some("http"), None) => config.build(),
            (Some("https"), None) => return Err(ClientError::Url(format!("{url} wants a client certificate"))),
            (Some("http"), Some(_)) => {
                return Err(ClientError::Url(format!("{url} is plain, yet a client certificate is configured")));
            }
            _ => return Err(ClientError::Url(format!("{url} begins with neither http:// nor https://"))),
        };
        Ok(Self { agent: config.new_agent(), base, timeout })
    }

    /// `GET path`.
    ///
    /// # Errors
    /// There is no whole reply within the deadline.
    pub fn get(&self, path: &str) -> Result<Reply, ClientError> {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        self.reply(response.map_err(|error| self.failed(&error))?)
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// There is no whole reply within the deadline.
    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<Reply, ClientError> {
        let response = self.send(path, body)?;
        self.reply(response)
    }

    /// `POST path` with a JSON body, for a stream of events. Anything but a 200 event stream is an error with its body.
    ///
    /// # Errors
    /// There is no event stream.
    pub fn stream(&self, path: &str, body: &impl Serialize) -> Result<Events<Stream>, ClientError> {
        let response = self.send(path, body)?;
        let kind = response.body().mime_type().unwrap_or("no content type").to_owned();
        if response.status() == 200 && kind == "text/event-stream" {
            return Ok(Events::new(BufReader::new(response.into_body().into_reader())));
        }
        let reply = self.reply(response)?;
        let (status, said) = (reply.status, reply.excerpt());
        if status != 200 {
            return Err(ClientError::Refused { status, said });
        }
        Err(ClientError::Reply(format!("wants an event stream, got {kind}: {said}")))
    }

    fn send(&self, path: &str, body: &impl Serialize) -> Result<ureq::http::Response<Body>, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Reply(error.to_string()))?;
        let request = self.agent.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        request.send(&body[..]).map_err(|error| self.failed(&error))
    }

    fn reply(&self, mut response: ureq::http::Response<Body>) -> Result<Reply, ClientError> {
        let request_id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(REPLY_BYTES_MAX).read_to_vec();
        Ok(Reply { status, request_id, body: body.map_err(|error| self.failed(&error))? })
    }

    fn failed(&self, error: &ureq::Error) -> ClientError {
        match error {
            ureq::Error::Timeout(_) => ClientError::Timeout(self.timeout),
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::TimedOut => ClientError::Timeout(self.timeout),
            other => ClientError::Transport(format!("{}: {other}", self.base)),
        }
    }
}

impl Reply {
    /// The body as `T`.
    ///
    /// # Errors
    /// It is not that; the message carries the beginning of the body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            ClientError::Reply(format!("the body is not what was asked for ({error}): {}", self.excerpt()))
        })
    }

    /// The beginning of the body, fit for one log line.
    #[must_use]
    pub fn excerpt(&self) -> String {
        const CHARS: usize = 200;
        let text = String::from_utf8_lossy(&self.body);
        let line: String =
            text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(CHARS).collect();
        if line.trim().is_empty() { "an empty body".to_owned() } else { line.trim().to_owned() }
    }
}

fn tls(identity: &Identity) -> Result<TlsConfig, ClientError> {
    let roots = certificates(&identity.ca)?;
    let chain = certificates(&identity.certificate)?;
    let key = PrivateKey::from_pem(&read(&identity.key)?).map_err(|error| wrong(&identity.key, &error.to_string()))?;
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(Some(ClientCert::new_with_certs(&chain, key)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// Every certificate of a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, ClientError> {
    let mut found = Vec::new();
    for item in parse_pem(&read(path)?) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(path, &error.to_string()))? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(wrong(path, "holds no certificate in PEM")) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    let bytes = fs::metadata(path).map_err(|error| wrong(path, &error.to_string()))?.len();
    if bytes > MATERIAL_BYTES_MAX {
        return Err(wrong(path, &format!("is larger than {MATERIAL_BYTES_MAX} bytes")));
    }
    fs::read(path).map_err(|error| wrong(path, &error.to_string()))
}

fn wrong(path: &Path, wrong: &str) -> ClientError {
    ClientError::Material { path: path.to_owned(), wrong: wrong.to_owned() }
}
