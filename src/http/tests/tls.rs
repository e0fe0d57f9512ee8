//! T rows that the edge answers for, with certificates made on the spot.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Request;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::settings::Settings;
use crate::http::serve::Surface;
use crate::http::tests::client::{Client, chat_request, content, saying, streaming};
use crate::http::tests::script::reply_to;
use crate::http::tests::site::{SLACK, Site, eventually, site_on};
use crate::http::tests::stopwatch::Stopwatch;
use crate::http::tls::{TlsError, TlsFiles, server_config};

/// A folder with everything that `certs init` makes, and two clients of which the second is revoked.
struct Papers {
    folder: TempDir,
    ca: CertificateDer<'static>,
    good: (CertificateDer<'static>, Vec<u8>),
    revoked: (CertificateDer<'static>, Vec<u8>),
}

fn leaf(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    serial: u64,
    usage: ExtendedKeyUsagePurpose,
) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a legal name");
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.extended_key_usages = vec![usage];
    (params.signed_by(&key, issuer).expect("a certificate"), key)
}

fn papers() -> Papers {
    let folder = tempfile::tempdir().expect("a folder");
    let files = TlsFiles::under(folder.path());
    fs::create_dir_all(files.ca.parent().expect("the certs folder")).expect("a folder");

    let ca_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "test CA");
    let ca = params.self_signed(&ca_key).expect("a certificate");
    let issuer = Issuer::new(params, ca_key);

    let (server, server_key) = leaf(&issuer, "localhost", 2, ExtendedKeyUsagePurpose::ServerAuth);
    let (good, good_key) = leaf(&issuer, "good client", 3, ExtendedKeyUsagePurpose::ClientAuth);
    let (revoked, revoked_key) = leaf(&issuer, "bad client", 4, ExtendedKeyUsagePurpose::ClientAuth);
    let now = OffsetDateTime::now_utc();
    let crl = CertificateRevocationListParams {
        this_update: now,
        next_update: now + Duration::from_secs(86_400),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(4_u64),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = crl.signed_by(&issuer).expect("a list").pem().expect("PEM");
    for (path, text) in [
        (&files.ca, ca.pem()),
        (&files.certificate, server.pem()),
        (&files.key, server_key.serialize_pem()),
        (&files.crl, crl),
    ] {
        fs::write(path, text).expect("a file");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a mode");
    }
    Papers {
        folder,
        ca: ca.der().clone(),
        good: (good.der().clone(), good_key.serialize_der()),
        revoked: (revoked.der().clone(), revoked_key.serialize_der()),
    }
}

impl Papers {
    fn files(&self) -> TlsFiles {
        TlsFiles::under(self.folder.path())
    }

    fn user(&self) -> u32 {
        fs::metadata(self.folder.path()).expect("the folder is there").uid()
    }

    async fn site(&self, change: impl FnOnce(&mut Settings)) -> Site {
        let config = server_config(&self.files(), self.user()).expect("sound files");
        site_on(Surface::Tls(config), change).await
    }

    fn client(&self, identity: Option<&(CertificateDer<'static>, Vec<u8>)>, alpn: &[&[u8]]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows both versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.clone()).expect("a key");
                builder.with_client_auth_cert(vec![certificate.clone()], key).expect("an identity")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

async fn connect(site: &Site, connector: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(site.address).await.expect("the listener accepts");
    connector.connect(ServerName::try_from("localhost").expect("a name"), stream).await
}

#[tokio::test]
async fn t1_a_client_with_a_certificate_is_answered_over_http1() {
    let papers = papers();
    let site = papers.site(|_| ()).await;
    let connector = papers.client(Some(&papers.good), &[b"http/1.1"]);
    let mut client = Client::over(connect(&site, &connector).await.expect("a handshake"));
    let whole = client.post(&saying("hello")).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], reply_to("hello"));
    let events = client.post(&streaming("hello")).await.events();
    assert_eq!(content(&events), reply_to("hello"));
}

#[tokio::test]
async fn t1_a_client_without_or_with_a_revoked_certificate_hears_no_byte_of_http() {
    let papers = papers();
    let site = papers.site(|_| ()).await;
    for identity in [None, Some(&papers.revoked)] {
        let connector = papers.client(identity, &[]);
        // In TLS 1.3 the client is done before the server has judged; the alert comes with the first read.
        if let Ok(stream) = connect(&site, &connector).await {
            assert_eq!(Client::over(stream).closed().await, b"");
        }
    }
    let mut plain = site.connect().await;
    plain.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(!plain.closed().await.starts_with(b"HTTP"));
    let name = "sanctum_mlx_connections_dropped_total{reason=\"handshake\"}";
    eventually("three failed handshakes are counted", || site.metric(name) == 3.0).await;
}

#[tokio::test]
async fn t2_no_session_is_ever_resumed() {
    let papers = papers();
    let site = papers.site(|_| ()).await;
    let connector = papers.client(Some(&papers.good), &[]);
    for _ in 0..3 {
        let stream = connect(&site, &connector).await.expect("a handshake");
        let mut client = Client::over(stream);
        assert_eq!(client.get("/health/live").await.status, 200);
        let (_, session) = client.stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn t6_a_handshake_that_does_not_end_is_closed_and_at_most_64_are_under_way() {
    let papers = papers();
    let site = papers.site(|_| ()).await;
    let limit = site.state.settings.times.tls_handshake;
    let stopwatch = Stopwatch::start();
    let mut half = Vec::new();
    for _ in 0..80 {
        let mut client = site.connect().await;
        client.send(b"\x16\x03\x01\x02").await;
        half.push(client);
    }
    eventually("the places for handshakes are taken", || site.seats.handshakes.available_permits() == 0).await;
    for client in half {
        assert_eq!(client.closed().await, b"");
    }
    stopwatch.check(limit + Duration::from_millis(500) + SLACK).await;
    assert_eq!(site.seats.handshakes.available_permits(), site.state.settings.limits.half_handshakes);
    let connector = papers.client(Some(&papers.good), &[]);
    assert_eq!(
        Client::over(connect(&site, &connector).await.expect("a handshake")).get("/health/live").await.status,
        200
    );
}

#[tokio::test]
async fn h1_a_client_that_is_silent_after_its_handshake_is_closed() {
    let papers = papers();
    let site = papers.site(|_| ()).await;
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let stream = connect(&site, &papers.client(Some(&papers.good), &[alpn])).await.expect("a handshake");
        let stopwatch = Stopwatch::start();
        assert_eq!(Client::over(stream).closed().await, b"");
        stopwatch.check(site.state.settings.times.first_byte + SLACK).await;
    }
}

#[tokio::test]
async fn l3_http2_finishes_its_stream_and_announces_the_end() {
    let papers = papers();
    let mut site = papers.site(|_| ()).await;
    let stream = connect(&site, &papers.client(Some(&papers.good), &[b"h2"])).await.expect("a handshake");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let live = Request::get("https://localhost/health/live").body(()).expect("a request");
    let (answer, _) = sender.send_request(live, true).expect("an open connection");
    assert_eq!(answer.await.expect("an answer").status(), 200);

    site.gate.shut();
    let request = chat_request(&streaming("hello"));
    let (_, body) = request.split_once("\r\n\r\n").expect("a head and a body");
    let chat = Request::post("https://localhost/v1/chat/completions").header("content-type", "application/json");
    let (answer, mut upload) =
        sender.send_request(chat.body(()).expect("a request"), false).expect("an open connection");
    upload.send_data(Bytes::from(body.to_owned()), true).expect("an open stream");
    site.in_flight(1).await;
    site.state.lifecycle.drain.begin();
    site.gate.open();
    let mut stream = answer.await.expect("an answer").into_body();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.expect("a whole body");
        stream.flow_control().release_capacity(data.len()).expect("bytes we were given");
        body.extend(data);
    }
    let events = crate::http::tests::client::events(&body);
    assert_eq!((content(&events), events.last().map(String::as_str)), (reply_to("hello"), Some("[DONE]")));
    drop(sender);
    connection.await.expect("no panic").expect("the connection ends by GOAWAY");
    Stopwatch::start().within(SLACK, "serving ends", &mut site.serving).await.expect("no panic");
}

#[tokio::test]
async fn l4_idle_http2_and_half_handshakes_do_not_delay_the_end() {
    let papers = papers();
    let mut site = papers
        .site(|settings| {
            settings.times.tls_handshake = Duration::from_secs(60);
            settings.times.first_byte = Duration::from_secs(60);
        })
        .await;
    let connector = papers.client(Some(&papers.good), &[b"h2"]);
    let (mut idle, mut half) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let mut client = site.connect().await;
        client.send(b"\x16\x03\x01\x02").await;
        half.push(client);
        let stream = connect(&site, &connector).await.expect("a handshake");
        // A preface, its settings, and then nothing: not even an answer to our ping.
        let mut client = Client::over(stream);
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await;
        idle.push(client);
    }
    eventually("every connection is there", || site.metric("sanctum_mlx_connections") as usize == 40).await;
    let stopwatch = Stopwatch::start();
    site.state.lifecycle.drain.begin();
    let ended = stopwatch.within(Duration::from_millis(250), "serving ends", &mut site.serving).await;
    ended.expect("no panic");
}

#[test]
fn t8_a_key_that_others_could_read_or_that_is_not_a_file_is_refused() {
    let papers = papers();
    let files = papers.files();
    let check = |mode: u32| {
        fs::set_permissions(&files.key, Permissions::from_mode(mode)).expect("a mode");
        server_config(&files, papers.user())
    };
    for mode in [0o600, 0o400] {
        assert!(check(mode).is_ok(), "{mode:o}");
    }
    for mode in [0o644, 0o604, 0o660, 0o700, 0o4600] {
        let error = check(mode).expect_err("an exposed key");
        assert!(matches!(error, TlsError::KeyExposed { .. }), "{mode:o}: {error}");
        assert!(error.to_string().contains("server.key"), "{error}");
    }
    fs::remove_file(&files.key).expect("it is there");
    fs::create_dir(&files.key).expect("a folder");
    assert!(matches!(server_config(&files, papers.user()), Err(TlsError::KeyExposed { .. })));
}

#[test]
fn l12_a_file_that_is_missing_or_not_pem_is_named() {
    let papers = papers();
    let files = papers.files();
    let check = |path: &Path| {
        let before = fs::read(path).expect("it is there");
        fs::write(path, "no PEM").expect("a file");
        let garbled = server_config(&files, papers.user()).expect_err("not PEM");
        assert!(matches!(garbled, TlsError::NotPem { .. }), "{garbled}");
        fs::remove_file(path).expect("it is there");
        let missing = server_config(&files, papers.user()).expect_err("not there");
        assert!(matches!(missing, TlsError::Unreadable { .. }), "{missing}");
        for error in [garbled, missing] {
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        }
        fs::write(path, before).expect("a file");
        fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a mode");
    };
    for path in [&files.ca, &files.certificate, &files.key, &files.crl] {
        check(path);
    }
    let certificate = CertificateDer::from_pem_file(&files.certificate).expect("PEM");
    assert_eq!(crate::http::tls::common_name(&certificate).as_deref(), Some("localhost"));
}
