//! Cooldowns as a table, and sinks that are real programs and sockets.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use super::*;
use crate::ops::watch::event::Kind;

const BROKEN: Kind = Kind::error("broken").alerting(10);
const SHAKY: Kind = Kind::warn("shaky");

fn alert() -> Alert {
    Alert {
        ts: "2026-04-19T00:00:00Z".to_owned(),
        host: "here".to_owned(),
        watcher: "canary",
        level: Level::Error,
        event: "broken".to_owned(),
        recovered: false,
        detail: "it said \"5\"".to_owned(),
    }
}

#[test]
fn a_kind_is_told_once_in_its_cooldown_and_recovers_once() {
    let mut told = Told::default();
    let broken = [BROKEN.with("a"), BROKEN.with("b"), SHAKY.with("c")];
    let first = told.due(&broken, 1_000);
    assert_eq!((first.raised, first.recovered), (broken[..2].to_vec(), vec![]), "a warning calls nobody");
    assert_eq!(told.due(&broken, 1_599), Due::default(), "within ten minutes");
    assert_eq!(told.due(&broken, 1_600).raised.len(), 2);
    let later = told.due(&[SHAKY.with("c")], 1_700);
    assert_eq!((later.raised, later.recovered), (vec![], vec!["broken".to_owned()]));
    assert_eq!(told.due(&[], 1_800), Due::default(), "recovered is told once");
    assert_eq!(told.due(&broken, 1_801).raised.len(), 2, "a new trouble is told at once");
    assert_eq!(told.due(&broken, 900).raised.len(), 2, "a clock set back holds nothing back");
}

#[test]
fn a_sink_that_fails_is_named_and_the_others_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let heard = folder.path().join("heard");
    let words = ["/bin/sh", "-c", "cat > \"$0\"", heard.to_str().unwrap()].map(Into::into).to_vec();
    let sinks = Sinks(vec![
        Sink::Command(vec!["/bin/sh".into(), "-c".into(), "echo cannot >&2; exit 1".into()]),
        Sink::Command(words),
        Sink::Command(vec!["/nowhere/pager".into()]),
    ]);
    let failed = sinks.tell(&alert());
    assert_eq!(failed[0], "command: /bin/sh: cannot");
    assert!(failed.len() == 2 && failed[1].starts_with("command: /nowhere/pager: "), "{failed:?}");
    let heard: serde_json::Value = serde_json::from_slice(&fs::read(heard).unwrap()).unwrap();
    assert_eq!(heard["detail"], "it said \"5\"");
    assert_eq!((&heard["level"], &heard["recovered"]), (&"error".into(), &false.into()));
}

#[test]
fn a_webhook_is_tried_again_after_a_refusal_and_gets_json() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let mut last = String::new();
        for status in ["500 No", "204 Yes"] {
            let mut stream = listener.accept().unwrap().0;
            let mut bytes = [0; 4096];
            last.clear();
            while !last.ends_with('}') {
                let count = stream.read(&mut bytes).unwrap();
                last.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        }
        last
    });
    assert_eq!(Sinks(vec![Sink::Webhook(url)]).tell(&alert()), Vec::<String>::new());
    let heard = server.join().unwrap();
    assert!(heard.starts_with("POST /hook HTTP/1.1") && heard.contains("\"event\":\"broken\""), "{heard}");
}

#[test]
fn the_plan_names_the_sinks_and_stderr_is_always_one() {
    let names = |plan: &Alerts| Sinks::of(plan).0.iter().map(Sink::name).collect::<Vec<_>>();
    assert_eq!(names(&Alerts::default()), ["stderr"]);
    let plan = Alerts { webhook: Some("http://x".to_owned()), command: vec!["/x".into()], notification: false };
    assert_eq!(names(&plan), ["stderr", "webhook", "command"]);
}
