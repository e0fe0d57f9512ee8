//! O rows: full queues, waits, clients that leave, clients that do not read, deadlines.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::settings::Times;
use crate::http::tests::client::{Client, chat_request, content, events, saying, streaming};
use crate::http::tests::script::{FOREVER, Said, reply_to};
use crate::http::tests::site::{SLACK, Site, eventually, site};
use crate::http::tests::stopwatch::Stopwatch;
use crate::lifecycle::shortage::Pressure;

/// A server whose one row is taken by a request that is held at the gate.
async fn busy_site(change: impl FnOnce(&mut crate::config::settings::Settings)) -> (Site, Client) {
    let site = site(change).await;
    site.gate.shut();
    let mut holder = site.connect().await;
    holder.send(chat_request(&streaming(FOREVER))).await;
    eventually("the row is taken", || site.gate.open_rows() == 1 && site.state.engine.queue_depth() == 0).await;
    (site, holder)
}

/// Lets the engine step until a condition is true.
async fn step_until(site: &Site, what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || {
        site.gate.let_pass(1);
        condition()
    })
    .await;
}

#[tokio::test]
async fn o1_a_full_queue_is_a_429_with_retry_after_at_once() {
    let (site, _holder) = busy_site(|settings| settings.limits.queue_jobs = 2).await;
    let mut waiting = Vec::new();
    for index in 0..2 {
        let mut client = site.connect().await;
        client.send(chat_request(&saying("wait"))).await;
        eventually("it waits", || site.state.engine.queue_depth() == index + 1).await;
        waiting.push(client);
    }
    for body in [saying("more"), streaming("more")] {
        let stopwatch = Stopwatch::start();
        let reply = site.connect().await.post(&body).await;
        assert_eq!((reply.status, reply.code().as_str()), (429, "queue_full"));
        let seconds: u32 = reply.header("retry-after").and_then(|value| value.parse().ok()).expect("whole seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
        stopwatch.check(SLACK).await;
    }
    assert_eq!(site.gate.opened(), [FOREVER]);
}

#[tokio::test]
async fn o2_a_job_that_waits_too_long_is_a_503_and_no_step_is_spent() {
    let wait = Duration::from_millis(300);
    let (site, _holder) = busy_site(|settings| settings.times.queue_wait = wait).await;
    let before = site.gate.decoded();
    let stopwatch = Stopwatch::start();
    let reply = site.connect().await.post(&saying("late")).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "queue_timeout"));
    assert!(reply.header("retry-after").is_some());
    assert!(stopwatch.wall() >= wait, "{:?}", stopwatch.wall());
    stopwatch.check(wait + SLACK).await;
    step_until(&site, "the queue is empty", || site.state.engine.queue_depth() == 0).await;
    assert_eq!(site.gate.opened(), [FOREVER]);
    assert!(before <= site.gate.decoded());
}

#[tokio::test]
async fn o2_after_a_ping_the_same_is_one_error_event() {
    let (site, _holder) = busy_site(|settings| {
        settings.times.queue_wait = Duration::from_millis(300);
        settings.times.ping = Duration::from_millis(100);
    })
    .await;
    let reply = site.connect().await.post(&streaming("late")).await;
    assert_eq!(reply.status, 200);
    let events = reply.events();
    let (last, pings) = events.split_last().expect("at least the error");
    assert!(!pings.is_empty() && pings.iter().all(|ping| ping.starts_with(": queued, 0 before")), "{events:?}");
    let error: Value = serde_json::from_str(last).expect("the error event is JSON");
    assert_eq!(error["error"]["code"], "queue_timeout");
}

#[tokio::test]
async fn o3_a_client_that_leaves_frees_its_row_or_its_place_streamed_or_whole() {
    for body in [saying(FOREVER), streaming(FOREVER)] {
        let (site, holder) = busy_site(|_| ()).await;
        let mut waiting = site.connect().await;
        waiting.send(chat_request(&body)).await;
        eventually("it waits", || site.state.engine.queue_depth() == 1).await;
        drop(waiting);
        step_until(&site, "its place is free", || site.state.engine.queue_depth() == 0).await;
        assert_eq!(site.gate.opened(), [FOREVER]);
        drop(holder);
        step_until(&site, "the row is free", || site.gate.open_rows() == 0).await;

        let mut running = site.connect().await;
        running.send(chat_request(&body)).await;
        step_until(&site, "it runs", || site.gate.open_rows() == 1).await;
        drop(running);
        let left = site.gate.decoded();
        step_until(&site, "its row is free", || site.gate.open_rows() == 0).await;
        assert!(site.gate.decoded() < left + 100, "the row went on for long after its client left");
        let name = "sanctum_mlx_finishes_total{reason=\"client_disconnected\"}";
        eventually("it is counted", || site.metric(name) == 3.0).await;
        site.gate.open();
        assert_eq!(site.connect().await.post(&saying("next")).await.status, 200);
    }
}

#[tokio::test]
async fn o4_a_client_that_leaves_during_the_prefill_costs_one_more_chunk_at_most() {
    let long = "x".repeat(3000);
    for body in [saying(&long), streaming(&long)] {
        let site = site(|_| ()).await;
        site.gate.shut();
        let mut client = site.connect().await;
        client.send(chat_request(&body)).await;
        site.gate.let_pass(2);
        eventually("two of six chunks are evaluated", || site.gate.chunks() == 2).await;
        drop(client);
        let name = "sanctum_mlx_finishes_total{reason=\"client_disconnected\"}";
        eventually("it is noticed", || site.metric(name) == 1.0).await;
        site.gate.open();
        eventually("the row is free", || site.gate.open_rows() == 0).await;
        assert!(site.gate.chunks() <= 3, "{} chunks", site.gate.chunks());
        assert_eq!(site.gate.said(&long), [[]], "nothing was decoded for it");
    }
}

/// The tokens of each answer to `hello`, with their steps, beside a client that does not read, until that is dropped, or
/// beside nobody.
async fn hellos(beside_a_slow_reader: bool) -> Vec<Said> {
    const ANSWERS: usize = 8;
    let stall = Duration::from_millis(400);
    let site = site(|settings| {
        settings.limits.rows = 3;
        settings.times.write_stall = stall;
    })
    .await;
    site.gate.shut();
    let mut slow = site.connect().await;
    if beside_a_slow_reader {
        let socket = socket2::SockRef::from(&slow.stream);
        socket.set_recv_buffer_size(4096).expect("a small window");
        let mut body = streaming(FOREVER);
        body["max_tokens"] = json!(4000);
        for _ in 0..ANSWERS {
            // Pipelined: these answers of about 1 MB are more than both kernels' buffers hold.
            slow.send(chat_request(&body)).await;
        }
        eventually("it has a row", || site.gate.open_rows() == 1).await;
    }
    let mut others = [site.connect().await, site.connect().await];
    for other in &mut others {
        other.send(chat_request(&saying("hello"))).await;
    }
    site.in_flight(others.len() + usize::from(beside_a_slow_reader)).await;
    site.gate.open();
    let name = "sanctum_mlx_connections_dropped_total{reason=\"write_stall\"}";
    let stopwatch = Stopwatch::start();
    loop {
        for other in &mut others {
            assert_eq!(other.reply().await.json()["choices"][0]["message"]["content"], reply_to("hello"));
        }
        if !beside_a_slow_reader || site.metric(name) == 1.0 {
            break;
        }
        for other in &mut others {
            other.send(chat_request(&saying("hello"))).await;
        }
    }
    if beside_a_slow_reader {
        assert!(stopwatch.wall() >= stall, "{:?}", stopwatch.wall());
        let begun = site.gate.opened().iter().filter(|prompt| *prompt == FOREVER).count();
        assert!((1..ANSWERS).contains(&begun), "{begun}: what is not read is not computed beyond the answer under way");
    }
    eventually("nothing is in flight", || site.state.lifecycle.drain.in_flight() == 0).await;
    site.gate.said("hello")
}

#[tokio::test]
async fn o5_a_client_that_does_not_read_is_dropped_and_others_have_the_same_tokens_at_the_same_steps() {
    assert_eq!(Times::documented().write_stall, Duration::from_secs(60));
    let mut alone = hellos(false).await;
    alone.dedup();
    let [alone] = alone.as_slice() else { panic!("every answer is the same: {alone:?}") };
    assert!(alone.len() > reply_to("hello").len(), "the answer and its end");
    for beside in hellos(true).await {
        assert_eq!(&beside, alone);
    }
}

#[tokio::test]
async fn o6_a_stream_is_pinged_while_it_waits_and_while_nothing_comes() {
    let (site, holder) = busy_site(|settings| settings.times.ping = Duration::from_millis(100)).await;
    let mut client = site.connect().await;
    let stopwatch = Stopwatch::start();
    client.send(chat_request(&streaming("hello"))).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(client.chunk().await.expect("a ping"), b": queued, 0 before this one\n\n");
    stopwatch.check(Duration::from_millis(100) + SLACK).await;
    drop(holder);
    step_until(&site, "the row is its own", || site.gate.opened().len() == 2).await;
    let mut rest = Vec::new();
    while !rest.ends_with(b": ping\n\n") {
        rest.extend(client.chunk().await.expect("a ping"));
    }
    site.gate.open();
    while let Some(chunk) = client.chunk().await {
        rest.extend(chunk);
    }
    let events = events(&rest);
    assert_eq!(content(&events), reply_to("hello"));
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn o7_a_request_ends_at_its_own_deadline_with_what_it_has() {
    let site = site(|_| ()).await;
    site.gate.shut();
    site.gate.let_pass(3);
    let mut body = saying(FOREVER);
    body["timeout"] = json!(0.3);
    let stopwatch = Stopwatch::start();
    let reply = site.connect().await.post(&body).await.json();
    assert!(stopwatch.wall() >= Duration::from_millis(300), "{:?}", stopwatch.wall());
    stopwatch.check(Duration::from_millis(300) + SLACK).await;
    assert_eq!(reply["choices"][0]["message"]["content"], "abc");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!((&reply["timings"]["code"], &reply["usage"]["completion_tokens"]), (&json!("deadline"), &json!(3)));
    step_until(&site, "the row is free", || site.gate.open_rows() == 0).await;

    site.gate.shut();
    let mut client = site.connect().await;
    let request = chat_request(&saying(FOREVER));
    client.send(request.replacen("\r\n", "\r\nX-Request-Timeout: 0.2\r\n", 1)).await;
    assert_eq!(client.reply().await.json()["timings"]["code"], "deadline");
}

#[tokio::test]
async fn m2_short_of_memory_nothing_new_is_begun_and_what_runs_goes_on() {
    let (site, holder) = busy_site(|_| ()).await;
    site.state.lifecycle.shortage.set(Pressure::Critical);
    for body in [saying("more"), streaming("more")] {
        let reply = site.connect().await.post(&body).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "memory_pressure"));
        assert!(reply.header("retry-after").is_some());
    }
    let before = site.gate.decoded();
    step_until(&site, "the running one goes on", || site.gate.decoded() > before + 3).await;
    site.state.lifecycle.shortage.set(Pressure::Warning);
    drop(holder);
    site.gate.open();
    let reply = site.connect().await.post(&saying("again")).await;
    assert_eq!(reply.status, 200, "a warning takes what is kept, not what is asked");
}
