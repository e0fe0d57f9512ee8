//! The TLS configuration of the mTLS port, from PEM files: TLS 1.3 preferred, 1.2 minimum, a client certificate that
//! chains to our CA and is not on a CRL that is still in force. Sessions are never resumed: a resumed session is not
//! verified again, so a revoked client would keep its access for a day.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The name of HTTP/2 in the handshake.
pub(crate) const ALPN_H2: &[u8] = b"h2";
/// The name of HTTP/1.1 in the handshake.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The mode bits that a key of our own may have.
const ALLOWED_OWN: u32 = 0o600;
/// The mode bits that a key of root may have.
const ALLOWED_ROOT: u32 = 0o640;

/// The four files of the mTLS port.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The CA whose clients we accept.
    pub ca: PathBuf,
    /// Our certificate, then its chain.
    pub certificate: PathBuf,
    /// Our key.
    pub key: PathBuf,
    /// Revoked clients.
    pub crl: PathBuf,
}

/// Why there is no TLS. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be opened or read.
    #[error("{path}: cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not PEM of what it should hold.
    #[error("{path}: expected PEM of {expected}: {reason}", path = path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What was found.
        reason: String,
    },
    /// Others could read the key, or someone else put it there (T8).
    #[error("{path}: {reason}; expected a regular file of ours with mode 0600, or of root with mode 0640", path = path.display())]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The files can be read and do not make a configuration.
    #[error("{path}: {reason}", path = path.display())]
    Unusable {
        /// The file most likely at fault.
        path: PathBuf,
        /// What rustls said.
        reason: String,
    },
}

impl TlsFiles {
    /// The files where `certs init` puts them.
    #[must_use]
    pub fn under(home: &Path) -> Self {
        let certs = home.join("certs");
        Self {
            ca: certs.join("ca.crt"),
            certificate: certs.join("server.crt"),
            key: certs.join("server.key"),
            crl: certs.join("crl.pem"),
        }
    }
}

/// The configuration that these files describe; `user` is the user we act as.
///
/// # Errors
/// A file is missing, is not what it should be, or exposes the key.
pub fn server_config(files: &TlsFiles, user: u32) -> Result<Arc<ServerConfig>, TlsError> {
    check_key_file(&files.key, user)?;
    let mut roots = RootCertStore::empty();
    for certificate in read_all::<CertificateDer<'static>>(&files.ca, "certificates")? {
        roots.add(certificate).map_err(|error| unusable(&files.ca, &error))?;
    }
    let crls = read_all::<CertificateRevocationListDer<'static>>(&files.crl, "certificate revocation lists")?;
    let chain = read_all::<CertificateDer<'static>>(&files.certificate, "certificates")?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| not_pem(&files.key, "a private key", error))?;

    let provider = Arc::new(ring::default_provider());
    // Unknown revocation status is a refusal, the whole chain is checked (both defaults), and so is the CRL's own date.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .with_crls(crls)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| unusable(&files.crl, &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| unusable(&files.certificate, &error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(&files.key, &error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN_H2.to_vec(), ALPN_HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// PostgreSQL's rule: a regular file, ours with nothing for anyone else, or root's with at most reading for the group.
fn check_key_file(path: &Path, user: u32) -> Result<(), TlsError> {
    let facts = std::fs::metadata(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })?;
    if !facts.is_file() {
        return Err(TlsError::KeyExposed { path: path.to_owned(), reason: "it is not a regular file".to_owned() });
    }
    match exposure(facts.mode() & 0o7777, facts.uid(), user) {
        Some(reason) => Err(TlsError::KeyExposed { path: path.to_owned(), reason }),
        None => Ok(()),
    }
}

/// What is wrong with a file of this mode and owner.
fn exposure(mode: u32, owner: u32, user: u32) -> Option<String> {
    match owner {
        owner if owner == user && mode & !ALLOWED_OWN == 0 => None,
        0 if mode & !ALLOWED_ROOT == 0 => None,
        owner if owner == user || owner == 0 => Some(format!("its mode is {mode:04o}")),
        owner => Some(format!("it belongs to user {owner}")),
    }
}

fn read_all<T: PemObject>(path: &Path, expected: &'static str) -> Result<Vec<T>, TlsError> {
    let items = T::pem_file_iter(path).map_err(|error| not_pem(path, expected, error))?;
    let items: Vec<T> = items.collect::<Result<_, _>>().map_err(|error| not_pem(path, expected, error))?;
    if items.is_empty() {
        return Err(not_pem(path, expected, pem::Error::NoItemsFound));
    }
    Ok(items)
}

fn not_pem(path: &Path, expected: &'static str, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(source) => TlsError::Unreadable { path: path.to_owned(), source },
        error => TlsError::NotPem { path: path.to_owned(), expected, reason: error.to_string() },
    }
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), reason: error.to_string() }
}

/// The common name of a certificate's subject.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t8_a_key_is_ours_alone_or_roots_and_readable_by_its_group() {
        for (mode, owner) in [(0o600, 501), (0o400, 501), (0o640, 0), (0o600, 0)] {
            assert_eq!(exposure(mode, owner, 501), None, "{mode:o} of {owner}");
        }
        for (mode, owner) in
            [(0o640, 501), (0o604, 501), (0o700, 501), (0o4600, 501), (0o600, 502), (0o644, 0), (0o660, 0), (0o650, 0)]
        {
            assert!(exposure(mode, owner, 501).is_some(), "{mode:o} of {owner}");
        }
    }
}
