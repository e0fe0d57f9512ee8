//! Probes against a double on loopback that answers with what a test gives it, over real sockets.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::config::args::{RootArgs, ServerArgs};
use crate::ops::certs::{self, FIRST_CLIENT, Paths};

/// Reads one request from a stream and answers it; returns its first line and body.
fn serve_one(stream: impl Read + Write, answer: &str) -> Option<(String, String)> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    stream.read_line(&mut first).ok()?;
    while stream.read_line(&mut line).ok()? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    stream.get_mut().write_all(answer.as_bytes()).ok()?;
    stream.get_mut().flush().ok()?;
    Some((first.trim_end().to_owned(), String::from_utf8(body).unwrap()))
}

/// A server that answers one plain request; its URL, and what it heard.
fn double(answer: String) -> (String, JoinHandle<Option<(String, String)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (url, std::thread::spawn(move || serve_one(listener.accept().unwrap().0, &answer)))
}

fn response(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn args(kind: ProbeKind, url: Option<String>, home: &Path) -> ProbeArgs {
    let root = RootArgs { home: Some(home.to_owned()) };
    ProbeArgs { kind, timeout_seconds: Some(5.0), server: ServerArgs { url, ca: None, cert: None, key: None, root } }
}

fn look_at(look: fn(&Client) -> Seen, answer: String) -> (Health, Event, String) {
    let (url, heard) = double(answer);
    let home = tempfile::tempdir().unwrap();
    let (client, transport) = prepare(&args(ProbeKind::Http, Some(url), home.path()), look::MODELS_LIMIT).unwrap();
    assert_eq!(transport, "plain");
    let (health, event) = judge(look(&client));
    (health, event, heard.join().unwrap().map(|(line, body)| line + "\n" + &body).unwrap_or_default())
}

fn chat(content: &str) -> String {
    response(
        200,
        &format!("{{\"choices\":[{{\"message\":{{\"role\":\"assistant\",\"content\":{content}}}}}],\"id\":1}}"),
    )
}

#[test]
fn a_listed_model_is_healthy_and_everything_else_is_not() {
    let cases = [
        (response(200, "{\"data\":[{\"id\":\"smol\"}],\"sanctum\":{}}"), Health::Healthy, "smol"),
        (response(200, "{\"data\":[]}"), Health::Unhealthy, "no model is listed"),
        (response(200, ""), Health::Unhealthy, "an empty body"),
        (response(200, "<html>"), Health::Unhealthy, "<html>"),
        (
            response(503, "{\"error\":{\"message\":\"the engine is stalled\",\"code\":\"stalled\"}}"),
            Health::Unhealthy,
            "503 the engine is stalled",
        ),
        (response(301, ""), Health::Unhealthy, "301"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"data\"".to_owned(), Health::Unhealthy, ""),
        ("nonsense\r\n\r\n".to_owned(), Health::Unhealthy, ""),
    ];
    for (answer, health, words) in cases {
        let (seen, event, heard) = look_at(look::models, answer.clone());
        assert_eq!(seen, health, "{answer}: {event:?}");
        assert!(event.detail.contains(words), "{answer}: {event:?}");
        assert!(heard.starts_with("GET /v1/models HTTP/1.1\n"), "{heard}");
    }
}

#[test]
fn a_chat_must_say_four_and_an_empty_200_fails() {
    let cases = [
        (chat("\"4\""), Health::Healthy, "probe_ok"),
        (chat("\"2+2 is 4.\""), Health::Healthy, "probe_ok"),
        (chat("\"5\""), Health::Unhealthy, "probe_failed"),
        (chat("\" \""), Health::Unhealthy, "probe_failed"),
        (chat("null"), Health::Unhealthy, "probe_failed"),
        (response(200, ""), Health::Unhealthy, "probe_failed"),
        (response(200, "{\"choices\":[]}"), Health::Unhealthy, "probe_failed"),
        (response(429, "{\"error\":{\"message\":\"full\",\"code\":\"queue_full\"}}"), Health::Unhealthy, "probe_busy"),
        (response(500, "{}"), Health::Unhealthy, "probe_failed"),
    ];
    for (answer, health, event) in cases {
        let (seen, told, heard) = look_at(ask, answer.clone());
        assert_eq!((seen, told.kind.name), (health, event), "{answer}: {told:?}");
        assert!(heard.starts_with("POST /v1/chat/completions HTTP/1.1\n{\"messages\":[{\"role\":\"user\""), "{heard}");
    }
}

#[test]
fn a_silent_server_is_unhealthy_at_the_limit_and_a_closed_port_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let home = tempfile::tempdir().unwrap();
    let args = ProbeArgs { timeout_seconds: Some(0.2), ..args(ProbeKind::Http, Some(url), home.path()) };
    let (client, _) = prepare(&args, look::MODELS_LIMIT).unwrap();
    let begun = Instant::now();
    let seen = look::models(&client);
    assert!(matches!(&seen, Seen::Failed(why) if why.contains("within 0.2 s")), "{seen:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(listener);
    let seen = look::models(&client);
    assert!(matches!(&seen, Seen::Failed(why) if why.contains("refused")), "{seen:?}");
}

/// A server with mutual TLS from these certificates that answers one request.
fn tls_double(paths: &Paths, answer: String) -> (String, JoinHandle<Option<(String, String)>>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(paths.ca_certificate()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![CertificateDer::from_pem_file(paths.server_certificate()).unwrap()];
    let key = PrivateKeyDer::from_pem_file(paths.server_key()).unwrap();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let serve = move || {
        let session = ServerConnection::new(config).unwrap();
        serve_one(StreamOwned::new(session, listener.accept().unwrap().0), &answer)
    };
    (url, std::thread::spawn(serve))
}

#[test]
fn mutual_tls_works_with_our_certificates_and_fails_with_anothers() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let paths = certs::ensure(home.path(), &[]).unwrap().paths;
    certs::ensure(other.path(), &[]).unwrap();
    for (client_home, health) in [(&home, Health::Healthy), (&other, Health::Unhealthy)] {
        let (url, server) = tls_double(&paths, chat("\"4\""));
        let (client, transport) =
            prepare(&args(ProbeKind::Chat, Some(url), client_home.path()), look::CHAT_LIMIT).unwrap();
        assert_eq!(transport, "mtls");
        let (seen, event) = judge(ask(&client));
        assert_eq!(seen, health, "{event:?}");
        assert_eq!(server.join().unwrap().is_some(), health == Health::Healthy);
    }
}

#[test]
fn certificates_decide_the_transport_and_a_missing_one_is_no_downgrade() {
    let home = tempfile::tempdir().unwrap();
    let target =
        |url: Option<&str>| Target::of(&args(ProbeKind::Http, url.map(str::to_owned), home.path()).server).unwrap();
    assert_eq!(target(None), Target { url: "http://127.0.0.1:1337".to_owned(), identity: None });
    let paths = certs::ensure(home.path(), &[]).unwrap().paths;
    let with = target(None);
    assert!(with.url == "https://127.0.0.1:1338" && with.identity.is_some());
    assert_eq!(target(Some("http://x")).identity, None);

    fs::remove_file(paths.client_certificate(FIRST_CLIENT)).unwrap();
    let args = args(ProbeKind::Http, None, home.path());
    let error = format!("{:#}", prepare(&args, look::MODELS_LIMIT).unwrap_err());
    assert!(error.contains("default.crt is needed for mutual TLS; there is no fall-back"), "{error}");
    assert_eq!(run(&args), Health::CannotRun);
    let server = ServerArgs { url: Some("http://x".to_owned()), ca: Some("/x".into()), ..args.server };
    let named = ProbeArgs { server, ..args };
    assert!(prepare(&named, look::MODELS_LIMIT).is_err());
}
