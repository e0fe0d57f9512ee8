//! T1: who may come in over mutual TLS and who may not, on the real listener with the certificates that `serve` made.
//! Whoever is refused hears a TLS alert and not one byte of HTTP.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::support::server::Server;
use crate::support::{tell_trials, tiny};

const DAY: Duration = Duration::from_secs(86_400);
/// Serials that the list of the test revokes.
const REVOKED_CLIENT: u64 = 7_001;
const REVOKED_INTERMEDIATE: u64 = 7_002;

/// A certificate chain and its key.
type Identity = (Vec<CertificateDer<'static>>, Vec<u8>);

/// What a client certificate looks like when nothing is wrong with it.
fn sound(serial: u64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, format!("client {serial}"));
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (now - DAY, now + DAY);
    params
}

fn authority(name: &str, serial: u64) -> CertificateParams {
    let mut params = sound(serial);
    params.extended_key_usages = Vec::new();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn signed(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    (vec![certificate.der().clone()], key.serialize_der())
}

/// Replaces the list of a home by one that revokes the serials of the test, young enough that `serve` does not sign it anew.
fn revoke(crl: &Path, issuer: &Issuer<'_, KeyPair>) {
    let now = OffsetDateTime::now_utc();
    let entry = |serial: u64| RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now - DAY,
        next_update: now + DAY * 30,
        crl_number: SerialNumber::from(9_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![entry(REVOKED_CLIENT), entry(REVOKED_INTERMEDIATE)],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    fs::write(crl, list.signed_by(issuer).expect("a list").pem().expect("PEM")).expect("the file is ours");
}

/// The first bytes of HTTP that a client hears, or the TLS error that it hears instead.
fn hear(
    address: SocketAddr,
    name: &str,
    ca: &CertificateDer<'static>,
    identity: Option<Identity>,
) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("both");
    let builder = builder.with_root_certificates(roots);
    let config = match identity {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, PrivateKeyDer::try_from(key).expect("a key")).expect("an identity")
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
    let socket = TcpStream::connect(address).expect("the listener accepts");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let mut stream = StreamOwned::new(connection, socket);
    let request = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).map_err(|error| error.to_string())?;
    let mut heard = [0; 12];
    stream.read_exact(&mut heard).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&heard).into_owned())
}

#[test]
fn t1_only_a_client_with_a_sound_certificate_of_our_authority_is_answered() {
    let folder = TempDir::new().expect("a folder");
    let home = folder.path().join("home");
    // A first start makes the certificates.
    let first = Server::new(&tiny()).at_home(&home).ready();
    first.signal("TERM");
    assert_eq!(first.ended(Instant::now()).code, 0);
    let certs = home.join("certs");
    let read = |name: &str| fs::read_to_string(certs.join(name)).expect("made by the first start");
    let ca = CertificateDer::from_pem_slice(read("ca.crt").as_bytes()).expect("PEM");
    let ca_key = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let ours = Issuer::from_ca_cert_der(&ca, ca_key).expect("an authority");
    revoke(&certs.join("crl.pem"), &ours);

    let now = OffsetDateTime::now_utc();
    let other = |name| Issuer::new(authority(name, 1), KeyPair::generate().expect("a key"));
    let mut expired = sound(11);
    (expired.not_before, expired.not_after) = (now - DAY * 3, now - DAY);
    let mut not_yet = sound(12);
    (not_yet.not_before, not_yet.not_after) = (now + DAY, now + DAY * 3);
    let mut wrong_use = sound(13);
    wrong_use.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let own_key = KeyPair::generate().expect("a key");
    let self_signed = sound(14).self_signed(&own_key).expect("a certificate");
    let between = authority("intermediate", REVOKED_INTERMEDIATE);
    let between_key = KeyPair::generate().expect("a key");
    let between_certificate = between.signed_by(&between_key, &ours).expect("a certificate");
    let (mut chain, chain_key) = signed(&sound(15), &Issuer::new(between, between_key));
    chain.push(between_certificate.der().clone());

    let running = Server::new(&tiny()).at_home(&home).ready();
    let ask = |identity| hear(running.tls(), "localhost", &ca, identity);
    assert_eq!(ask(Some(signed(&sound(10), &ours))), Ok("HTTP/1.1 200".to_owned()), "valid");
    let refused: [(&str, Option<Identity>); 8] = [
        ("none", None),
        ("expired", Some(signed(&expired, &ours))),
        ("not yet valid", Some(signed(&not_yet, &ours))),
        ("wrong CA", Some(signed(&sound(16), &other("another authority")))),
        ("self-signed", Some((vec![self_signed.der().clone()], own_key.serialize_der()))),
        ("wrong EKU", Some(signed(&wrong_use, &ours))),
        ("revoked", Some(signed(&sound(REVOKED_CLIENT), &ours))),
        ("revoked intermediate", Some((chain, chain_key))),
    ];
    let mut cases = 1;
    for (case, identity) in refused {
        let heard = ask(identity);
        assert!(heard.as_ref().is_err_and(|error| error.contains("alert")), "{case}: {heard:?}");
        cases += 1;
    }
    // A name that the server's certificate does not have is the client's to refuse.
    let misnamed = hear(running.tls(), "elsewhere.example", &ca, Some(signed(&sound(17), &ours)));
    assert!(misnamed.as_ref().is_err_and(|error| error.contains("not valid for name")), "SNI mismatch: {misnamed:?}");
    // Plain HTTP on the TLS port: an alert record at most, and no HTTP.
    let mut plain = TcpStream::connect(running.tls()).expect("the listener accepts");
    plain.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("a socket");
    let mut heard = Vec::new();
    // A reset after the alert is as good as an end.
    let _ = plain.read_to_end(&mut heard);
    assert!(!heard.windows(4).any(|bytes| bytes == b"HTTP"), "{heard:?}");
    tell_trials("T1", cases + 2, 11);
}

#[test]
fn t9_a_scrape_tells_when_each_certificate_and_the_revocation_list_end() {
    let running = Server::new(&tiny()).ready();
    let metrics = running.connect().get("/metrics").expect("an answer").body;
    let told = |of: &str| -> i64 {
        let begins = format!("sanctum_mlx_tls_cert_not_after_seconds{{of=\"{of}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&begins)).expect(of);
        line.parse().expect("Unix seconds")
    };
    let certs = running.home().join("certs");
    for (of, file) in [("server", "server.crt"), ("ca", "ca.crt")] {
        let pem = fs::read(certs.join(file)).expect("the server made it");
        let (_, block) = x509_parser::pem::parse_x509_pem(&pem).expect("PEM");
        assert_eq!(told(of), block.parse_x509().expect("a certificate").validity().not_after.timestamp(), "{of}");
    }
    let pem = fs::read(certs.join("crl.pem")).expect("the server made it");
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).expect("PEM");
    let (_, list) = x509_parser::parse_x509_crl(&block.contents).expect("a list");
    assert_eq!(told("crl"), list.next_update().expect("it ends").timestamp());
}
