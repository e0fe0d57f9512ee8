//! Which server a command talks to and how, out of what was typed and which certificates lie in the home. It refuses to
//! fall back from mutual TLS to plain HTTP: whoever has certificates means to use them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::client::{Client, ClientError, Identity};
use crate::config::args::ServerArgs;
use crate::config::home;
use crate::ops::certs::{FIRST_CLIENT, Paths};

/// Where the two listeners are by default.
const PLAIN_URL: &str = "http://127.0.0.1:1337";
const TLS_URL: &str = "https://127.0.0.1:1338";

/// Where to ask and as whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) identity: Option<Identity>,
}

impl Target {
    /// Mutual TLS where the URL says so or certificates are there; then the client's files must be there too.
    pub(crate) fn of(args: &ServerArgs) -> anyhow::Result<Self> {
        let paths = Paths::of(&home::root(args.root.home.as_deref())?);
        let configured = paths.ca_certificate().exists() || args.ca.is_some() || args.cert.is_some();
        let url = args.url.clone().unwrap_or_else(|| if configured { TLS_URL } else { PLAIN_URL }.to_owned());
        if !url.starts_with("https://") {
            if args.ca.is_some() || args.cert.is_some() {
                bail!("{url} is plain, yet certificates were named; drop them or use https");
            }
            return Ok(Self { url, identity: None });
        }
        let named = |path: &Option<PathBuf>, usual: PathBuf| path.clone().unwrap_or(usual);
        let identity = Identity {
            ca: named(&args.ca, paths.ca_certificate()),
            certificate: named(&args.cert, paths.client_certificate(FIRST_CLIENT)),
            key: named(&args.key, paths.client_key(FIRST_CLIENT)),
        };
        for path in [&identity.ca, &identity.certificate, &identity.key] {
            fs::metadata(path).with_context(|| {
                format!("{} is needed for mutual TLS; there is no fall-back to plain HTTP", path.display())
            })?;
        }
        Ok(Self { url, identity: Some(identity) })
    }

    /// A client with connections of its own.
    pub(crate) fn client(&self, limit: Duration) -> Result<Client, ClientError> {
        Client::new(&self.url, self.identity.as_ref(), limit)
    }

    /// In a word.
    pub(crate) fn transport(&self) -> &'static str {
        if self.identity.is_some() { "mtls" } else { "plain" }
    }
}
