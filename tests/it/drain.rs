//! The way down on real sockets: listeners refuse at once (L1), what is in flight finishes byte-complete (L2), new
//! requests are turned away well-formed (L3), idle and half-open connections delay nothing (L4), what is cut is told (L8).

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::http::{Connection, chat};
use crate::support::server::Server;
use crate::support::{SLACK, eventually, tell_trials, tiny, trials};

#[test]
fn l1_both_listeners_refuse_at_once_after_a_termination() {
    let count = trials(25);
    for _ in 0..count {
        let running = Server::new(&tiny())
            .with(["--host", "127.0.0.1", "--host", "::1", "--tls-host", "127.0.0.1", "--tls-host", "::1"])
            .ready();
        let addresses = running.all("plain").into_iter().chain(running.all("tls")).collect::<Vec<_>>();
        assert_eq!(addresses.len(), 4, "v4 and v6 of both: {addresses:?}");
        // A stream in flight keeps the process alive, so that the refusal is the listener's and not the process' end.
        let mut stream = running.connect();
        stream.send_chat(&chat("Count.", 100_000, true)).expect("the server reads");
        stream.head().expect("the stream begins");
        let since = Instant::now();
        running.signal("TERM");
        for address in addresses {
            until_refused(address);
        }
        let took = since.elapsed();
        assert!(took <= Duration::from_millis(100) + SLACK, "refused after {took:?}");
    }
    tell_trials("L1", count, 25);
}

#[test]
fn l2_what_is_in_flight_finishes_byte_complete() {
    let running = Server::new(&tiny()).with(["--drain-seconds", "30", "--fault", "slow=10@1"]).ready();
    let question = "x".repeat(64);
    let reference = running.connect().post_chat(&chat(&question, 48, true)).expect("an answer");
    let reference = text_of(&reference.events());
    assert!(!reference.is_empty());
    let streams: Vec<Connection> = (0..50)
        .map(|_| {
            let mut connection = running.connect();
            connection.send_chat(&chat(&question, 48, true)).expect("the server reads");
            connection
        })
        .collect();
    eventually("all fifty are in flight", || {
        let health = Connection::to(running.admin()).get("/health").expect("an answer").json();
        let count = |name: &str| health[name].as_u64().expect("a number");
        (count("running_rows") + count("queue_depth") >= 50).then_some(())
    });
    running.signal("TERM");
    let mut complete = 0;
    for mut stream in streams {
        let answer = stream.answer().expect("the stream ends well-formed");
        let events = answer.events();
        assert_eq!(events.last(), Some(&"[DONE]"), "{:?}", answer.body);
        assert_eq!(text_of(&events), reference, "the same text as before the drain");
        complete += 1;
    }
    assert_eq!(running.ended(Instant::now()).code, 0);
    tell_trials("L2", complete, 50);
}

#[test]
fn l3_a_new_request_on_an_open_connection_is_turned_away_while_one_is_in_flight() {
    let running = Server::new(&tiny()).with(["--drain-seconds", "20", "--fault", "slow=20@1"]).ready();
    let mut idle = running.connect();
    assert_eq!(idle.get("/health/live").expect("an answer").status, 200);
    let mut stream = running.connect();
    stream.send_chat(&chat("Count.", 40, true)).expect("the server reads");
    stream.head().expect("the stream begins");
    running.signal("TERM");
    eventually("draining", || running.stderr().contains("draining").then_some(()));
    let since = Instant::now();
    let refused = idle.post_chat(&chat("Me too.", 4, false)).expect("a well-formed refusal");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(refused.json()["error"]["message"].is_string(), "{refused:?}");
    assert!(since.elapsed() <= Duration::from_millis(100) + SLACK);
    let streamed = stream.answer_body().expect("the stream finishes");
    assert!(streamed.ends_with("data: [DONE]\n\n"), "{streamed:?}");
    assert_eq!(running.ended(Instant::now()).code, 0);
    tell_trials("L3", 1, 1);
}

#[test]
fn l4_idle_and_half_open_connections_delay_nothing() {
    let running = Server::new(&tiny()).with(["--drain-seconds", "20"]).ready();
    let (plain, tls) = (running.plain(), running.tls());
    let half = |address: SocketAddr, bytes: &[u8], count: usize| -> Vec<Connection> {
        (0..count)
            .map(|_| {
                let mut connection = Connection::to(address);
                connection.send(bytes).expect("the server accepts");
                connection
            })
            .collect()
    };
    let mut held = half(plain, b"GE", 20);
    held.extend(half(plain, b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-", 20));
    held.extend(half(plain, b"", 20));
    held.extend(half(tls, b"\x16\x03\x01\x02\x00\x01", 20));
    for _ in 0..200 {
        let mut idle = Connection::to(plain);
        assert_eq!(idle.get("/health/live").expect("an answer").status, 200);
        held.push(idle);
    }
    let since = Instant::now();
    running.signal("TERM");
    let ended = running.ended(since);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.after <= Duration::from_millis(250) + SLACK, "gone after {:?}", ended.after);
    tell_trials("L4", held.len(), 280);
}

#[test]
fn l8_a_stream_cut_at_the_deadline_is_told() {
    let running = Server::new(&tiny()).with(["--fault", "slow=20@1"]).ready();
    let mut streams: Vec<Connection> = (0..4)
        .map(|_| {
            let mut stream = running.connect();
            stream.send_chat(&chat("Count.", 100_000, true)).expect("the server reads");
            stream.head().expect("the stream begins");
            stream
        })
        .collect();
    let since = Instant::now();
    running.signal("TERM");
    for stream in &mut streams {
        let body = stream.answer_body().expect("the stream ends well-formed, not by a reset");
        let last = body.trim_end().lines().last().unwrap_or_default();
        assert!(last.starts_with("data: ") && last.contains("\"error\""), "the last event is an error: {last:?}");
        assert!(!body.contains("[DONE]"), "a cut stream is not done");
    }
    let ended = running.ended(since);
    assert_eq!(ended.code, 0, "everyone was told and the arrays were dropped: {}", ended.stderr);
    tell_trials("L8", streams.len(), 4);
}

/// Waits until a connect is refused.
fn until_refused(address: SocketAddr) {
    eventually("a refusal", || match TcpStream::connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Some(()),
        _ => None,
    });
}

/// The text that a stream's events add up to.
fn text_of(events: &[&str]) -> String {
    events
        .iter()
        .filter_map(|event| serde_json::from_str::<serde_json::Value>(event).ok())
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}
