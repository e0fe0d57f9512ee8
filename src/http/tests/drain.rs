//! L rows that the edge answers for: what a drain closes, what it lets finish, what it cuts.

use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::http::tests::client::{Client, Reply, chat_request, content, is_refused, saying, streaming};
use crate::http::tests::script::{FOREVER, reply_to};
use crate::http::tests::site::{SLACK, Site, eventually, site};
use crate::http::tests::stopwatch::Stopwatch;

/// Waits for `serve` to return, for at most `limit`.
async fn ends_within(site: &mut Site, limit: Duration) {
    let ended = Stopwatch::start().within(limit, "serving ends", &mut site.serving).await;
    ended.expect("serving does not panic");
}

#[tokio::test]
async fn l1_a_drain_closes_the_listener_at_once() {
    let site = site(|_| ()).await;
    site.gate.shut();
    let mut client = site.connect().await;
    client.send(chat_request(&saying("x"))).await;
    site.in_flight(1).await;
    let stopwatch = Stopwatch::start();
    site.state.lifecycle.drain.begin();
    while !is_refused(site.address).await {
        stopwatch.check(Duration::from_millis(100) + SLACK).await;
    }
    site.gate.open();
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_requests_in_flight_finish_byte_complete() {
    const CLIENTS: usize = 50;
    let mut site = site(|_| ()).await;
    site.gate.shut();
    let prompt = "0123456789abcdef".repeat(100);
    let mut clients = Vec::new();
    for index in 0..CLIENTS {
        let mut client = site.connect().await;
        let body = if index % 2 == 0 { streaming(&prompt) } else { saying(&prompt) };
        client.send(chat_request(&body)).await;
        clients.push(tokio::spawn(async move { client.reply().await }));
    }
    eventually("all are accepted", || site.state.engine.queue_depth() as usize + site.gate.open_rows() == CLIENTS)
        .await;
    assert_eq!(site.state.lifecycle.drain.in_flight(), CLIENTS);
    site.state.lifecycle.drain.begin();
    site.gate.open();
    for (index, client) in clients.into_iter().enumerate() {
        let reply: Reply = client.await.expect("a complete reply");
        assert_eq!(reply.status, 200);
        if index % 2 == 0 {
            let events = reply.events();
            assert_eq!(content(&events), reply_to(&prompt));
            assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        } else {
            assert_eq!(reply.json()["choices"][0]["message"]["content"], reply_to(&prompt));
        }
    }
    ends_within(&mut site, SLACK).await;
}

#[tokio::test]
async fn l3_while_something_is_in_flight_connections_stay_and_new_requests_are_refused() {
    let mut site = site(|_| ()).await;
    let mut idle = site.connect().await;
    assert_eq!(idle.get("/health/live").await.status, 200);
    let mut asking = site.connect().await;
    assert_eq!(asking.get("/health/live").await.status, 200);
    let mut half = site.connect().await;
    half.send("GET /health/li").await;
    site.gate.shut();
    let mut running = site.connect().await;
    running.send(chat_request(&streaming("hello"))).await;
    site.in_flight(1).await;

    site.state.lifecycle.drain.begin();
    half.send("ve HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    for reply in [asking.get("/v1/models").await, half.reply().await] {
        assert_eq!((reply.status, reply.code().as_str()), (503, "draining"));
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(reply.header("retry-after").is_some());
    }
    assert!(!idle.is_closed(), "an idle connection stays while something is in flight");
    site.gate.open();
    let events = running.reply().await.events();
    assert_eq!((content(&events), events.last().map(String::as_str)), (reply_to("hello"), Some("[DONE]")));
    idle.closed().await;
    ends_within(&mut site, Duration::from_millis(100) + SLACK).await;
}

#[tokio::test]
async fn l4_silent_and_half_open_connections_do_not_delay_the_end() {
    let mut site = site(|settings| {
        settings.times.first_byte = Duration::from_secs(60);
        settings.times.headers = Duration::from_secs(60);
    })
    .await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(site.connect().await);
        let mut begun = site.connect().await;
        begun.send("GE").await;
        open.push(begun);
        let mut half = site.connect().await;
        half.send("GET / HTTP/1.1\r\nHost: localhost\r\nX: ").await;
        open.push(half);
    }
    for _ in 0..100 {
        let mut idle = site.connect().await;
        assert_eq!(idle.get("/health/live").await.status, 200);
        open.push(idle);
    }
    eventually("every connection is served", || site.metric("sanctum_mlx_connections") as usize == open.len()).await;
    site.state.lifecycle.drain.begin();
    ends_within(&mut site, Duration::from_millis(250)).await;
    assert_eq!(site.metric("sanctum_mlx_connections"), 0.0);
}

#[tokio::test]
async fn l8_at_the_deadline_a_stream_gets_one_error_event_and_a_whole_answer_is_a_503() {
    let mut site = site(|settings| settings.limits.rows = 2).await;
    site.gate.shut();
    let (mut streamed, mut whole) = (site.connect().await, site.connect().await);
    streamed.send(chat_request(&streaming(FOREVER))).await;
    whole.send(chat_request(&saying(FOREVER))).await;
    eventually("both run", || {
        site.gate.let_pass(1);
        site.gate.open_rows() == 2 && site.gate.decoded() > 10
    })
    .await;
    assert_eq!(streamed.head().await.status, 200);
    site.state.lifecycle.drain.begin();
    site.state.lifecycle.drain.cut();
    let reply = whole.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "shutting_down"));
    let mut body = Vec::new();
    while let Some(chunk) = streamed.chunk().await {
        body.extend(chunk);
    }
    let events = crate::http::tests::client::events(&body);
    let last: Value = serde_json::from_str(events.last().expect("an error event")).expect("JSON");
    assert_eq!(last["error"]["code"], "shutting_down");
    assert_eq!(events.iter().filter(|event| event.contains("\"error\"")).count(), 1);
    assert!(!events.iter().any(|event| event == "[DONE]"));
    ends_within(&mut site, SLACK).await;
}

#[tokio::test]
async fn l5_a_client_that_never_reads_does_not_hold_the_end_beyond_the_cut() {
    let mut site = site(|_| ()).await;
    let stream = TcpStream::connect(site.address).await.expect("the listener accepts");
    socket2::SockRef::from(&stream).set_recv_buffer_size(4096).expect("a small window");
    let mut mute = Client::over(stream);
    let mut body = streaming(FOREVER);
    body["max_tokens"] = Value::from(4000);
    for _ in 0..8 {
        mute.send(chat_request(&body)).await;
    }
    site.in_flight(1).await;
    site.state.lifecycle.drain.begin();
    site.state.lifecycle.drain.cut();
    ends_within(&mut site, Duration::from_millis(500) + SLACK).await;
}
