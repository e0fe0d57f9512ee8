//! H rows: what a hostile or broken client can hold, and for how long; and the door's answers.

use std::time::Duration;

use crate::http::tests::client::{chat_request, saying};
use crate::http::tests::site::{SLACK, eventually, site};
use crate::http::tests::stopwatch::Stopwatch;

/// Sends `head`, then one byte of `drip` every 50 ms until the server has had enough; returns how long that took.
async fn drip(head: &str, drip: u8, limit: Duration) -> (Duration, Vec<u8>) {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    let stopwatch = Stopwatch::start();
    client.send(head).await;
    while !client.is_closed() {
        stopwatch.check(limit + SLACK).await;
        // The server may close between the look and the write.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.stream, &[drip]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (stopwatch.wall(), client.closed().await)
}

#[tokio::test]
async fn h1_a_socket_that_says_nothing_is_closed() {
    let site = site(|_| ()).await;
    let limit = site.state.settings.times.first_byte;
    let client = site.connect().await;
    let stopwatch = Stopwatch::start();
    assert_eq!(client.closed().await, b"");
    assert!(stopwatch.wall() >= limit, "{:?}", stopwatch.wall());
    stopwatch.check(limit + SLACK).await;
    assert_eq!(site.metric("sanctum_mlx_connections_dropped_total{reason=\"silent\"}"), 1.0);
}

#[tokio::test]
async fn h2_a_head_that_trickles_is_closed_at_a_total_limit() {
    let limit = Duration::from_millis(400);
    let (time, _) = drip("GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b'a', limit).await;
    assert!(time >= limit - Duration::from_millis(50), "{time:?}");
}

#[tokio::test]
async fn h3_a_body_that_trickles_is_a_408_at_a_total_limit() {
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 5000\r\n\r\n{";
    let (time, said) = drip(head, b' ', Duration::from_millis(400)).await;
    let said = String::from_utf8(said).expect("a response is text");
    assert!(time >= Duration::from_millis(350), "{time:?}");
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("x-should-retry: false"), "{said}");
    assert!(said.contains("connection: close") && said.contains("body_timeout"), "{said}");
}

#[tokio::test]
async fn h5_too_many_header_fields_and_too_large_a_head_are_431() {
    let site = site(|_| ()).await;
    let fields = |count: usize, bytes: usize| {
        let value = "v".repeat(bytes);
        let fields: String = (0..count).map(|index| format!("X-{index}: {value}\r\n")).collect();
        format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
    };
    for (count, bytes, status) in [(99, 10, 200), (100, 10, 431), (60, 900, 200), (80, 900, 431), (1, 70_000, 431)] {
        let mut client = site.connect().await;
        let stopwatch = Stopwatch::start();
        client.send(fields(count, bytes)).await;
        assert_eq!(client.head().await.status, status, "{count} fields of {bytes} bytes");
        stopwatch.check(Duration::from_millis(50) + SLACK).await;
    }
}

#[tokio::test]
async fn h5_a_body_above_the_limit_is_a_413_before_it_is_read() {
    let site = site(|settings| settings.limits.body_bytes = 1000).await;
    let mut client = site.connect().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    // Not one byte of the body is sent, and the answer is there all the same.
    client.send(format!("{head}Content-Length: 123456789\r\n\r\n")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    let message = reply.json()["error"]["message"].to_string();
    assert!(message.contains("123456789") && message.contains("1000"), "{message}");
    assert_eq!(client.closed().await, b"");

    let mut client = site.connect().await;
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n", "x".repeat(1001))).await;
    assert_eq!(client.reply().await.code(), "body_too_large");
}

#[tokio::test]
async fn h5_a_413_arrives_although_the_client_goes_on_sending() {
    let site = site(|settings| settings.limits.body_bytes = 1000).await;
    let mut client = site.connect().await;
    let body = "x".repeat(300_000);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    client.send(format!("{head}Content-Length: 300000\r\n\r\n{body}")).await;
    assert_eq!(client.reply().await.status, 413);
}

#[tokio::test]
async fn h4_at_the_connection_limit_the_longest_idle_one_makes_room() {
    let site = site(|settings| {
        settings.limits.connections = 4;
        settings.times.first_byte = Duration::from_secs(60);
    })
    .await;
    let mut silent = Vec::new();
    for index in 0..4 {
        silent.push(site.connect().await);
        eventually("seats are taken", || site.metric("sanctum_mlx_connections") as usize == index + 1).await;
    }
    let stopwatch = Stopwatch::start();
    assert_eq!(site.connect().await.get("/health/live").await.status, 200);
    stopwatch.check(Duration::from_millis(100) + SLACK).await;
    assert_eq!(site.metric("sanctum_mlx_connections_dropped_total{reason=\"evicted\"}"), 1.0);
    let first = silent.remove(0);
    assert_eq!(first.closed().await, b"");
}

#[tokio::test]
async fn h10_h11_the_plain_port_answers_no_foreign_page() {
    let site = site(|_| ()).await;
    let mut client = site.connect().await;
    let check = async |client: &mut crate::http::tests::client::Client, head: &str, status: u16| {
        client.send(format!("{head}\r\n\r\n")).await;
        assert_eq!(client.reply().await.status, status, "{head}");
    };
    check(&mut client, "GET /health/live HTTP/1.1\r\nHost: evil.example", 403).await;
    check(&mut client, "GET /health/live HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example", 403).await;
    check(&mut client, "GET /health/live HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:3000", 200).await;
    check(&mut client, "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost", 204).await;
    check(&mut client, "DELETE /v1/models HTTP/1.1\r\nHost: localhost", 405).await;
    let plain = chat_request(&saying("hi")).replace("application/json", "text/plain");
    client.send(plain).await;
    assert_eq!(client.reply().await.code(), "unsupported_media_type");
}

#[tokio::test]
async fn a_configured_token_is_required_on_the_plain_port() {
    let site = site(|settings| settings.listen.bearer_token = Some("secret".to_owned())).await;
    let mut client = site.connect().await;
    let without = client.get("/v1/models").await;
    assert_eq!((without.status, without.header("www-authenticate")), (401, Some("Bearer")));
    client.send("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 200);
}
