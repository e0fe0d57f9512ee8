//! What goes wrong with the serving itself, in a process that is started for it: it ends, hangs, says nothing or nonsense,
//! somebody else has its port, or it takes its time and must be left alone.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::channel::{Fault, Row, events, wait_until};
use super::place::{CANARY, GUARDIAN, Place};
use crate::support::http::{Connection, chat};
use crate::support::site::signal;
use crate::support::{PATIENCE, eventually};

/// How long the slow load takes: eight cadences of the guardian.
const SLOW_LOAD_MS: u64 = 2_000;

/// All of them, one after the other.
pub fn faults(place: &Place) -> Vec<Row> {
    vec![
        killed(place),
        device_error(place),
        hung(place),
        blocked_runtime(place),
        squatted(place),
        loads_slowly(place),
        canary(place, "hung before the first token", "spin_native@1, at the canary's own question", "spin_native@1"),
        canary(place, "empty answers", "empty@1: the end of the text at once", "empty@1"),
        canary(place, "wrong answers", "wrong@1: every token is the next one", "wrong@1"),
    ]
}

fn guardian(fault: &'static str, how: &'static str, events: &'static [&'static str]) -> Fault {
    Fault::new(GUARDIAN, fault, how, events)
}

fn killed(place: &Place) -> Row {
    let fault = guardian("killed", "SIGKILL", &["guardian_failed", "server_died"]);
    let kill = || signal("KILL", place.site.pid().expect("it serves"));
    fault.tell(|| place.tick(GUARDIAN), kill, |()| until_ready(place))
}

fn device_error(place: &Place) -> Row {
    let how = "error@2, exit 70, ready again before the next tick";
    let fault = guardian("ended, and back at once", how, &["server_died"]);
    place.restart("fault = [\"error@2\"]\n");
    let inject = || {
        let before = place.site.pid();
        assert_eq!(place.site.chat().0, 500);
        eventually("the end", || (place.site.pid() != before).then_some(()));
        until_ready(place);
    };
    fault.tell(|| place.tick(GUARDIAN), inject, |()| ())
}

fn until_ready(place: &Place) {
    place.site.until_ready();
}

/// A question that is never answered.
fn ask(place: &Place) -> Connection {
    let mut stuck = Connection::to(place.site.plain);
    stuck.send_chat(&chat("Count.", 64, false)).expect("the server reads");
    stuck
}

fn hung(place: &Place) -> Row {
    let fault = guardian("hung in native code", "spin_native@3, at a client's request", &["guardian_failed"]);
    place.restart("fault = [\"spin_native@3\"]\n");
    fault.tell(|| place.tick(GUARDIAN), || ask(place), |_stuck| place.restart(""))
}

fn blocked_runtime(place: &Place) -> Row {
    let fault = guardian("no worker of the runtime moves", "block_workers@2, at a request", &["guardian_failed"]);
    place.restart("fault = [\"block_workers@2\"]\n");
    fault.tell(|| place.tick(GUARDIAN), || ask(place), |_stuck| place.restart(""))
}

fn squatted(place: &Place) -> Row {
    let how = "another process answers 200 there; the server cannot bind";
    let fault = guardian("port squatted", how, &["port_squatted"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let inject = || {
            place.systemctl(&["stop", place.site.server()]);
            let listener = TcpListener::bind(place.site.plain).expect("the port is free");
            scope.spawn(|| squat(listener, &over));
            place.systemctl(&["start", place.site.server()]);
        };
        // Also when something panics: the scope waits for who squats.
        let leaves = Leaves(&over, place.site.plain);
        let mend = |()| {
            drop(leaves);
            until_ready(place);
            // Processes that could not bind ended unasked; that is told once.
            drop(events(place.tick(GUARDIAN)));
        };
        fault.tell(|| place.tick(GUARDIAN), inject, mend)
    })
}

/// Lets the port go.
struct Leaves<'a>(&'a AtomicBool, SocketAddr);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        // Wakes who waits for the next one; that nobody does is fine.
        let _ = TcpStream::connect(self.1);
    }
}

/// Answers as a server does that has a model.
fn squat(listener: TcpListener, over: &AtomicBool) {
    const BODY: &str = r#"{"object":"list","data":[{"id":"another","object":"model"}]}"#;
    for stream in listener.incoming().take_while(|_| !over.load(Ordering::Acquire)) {
        let Ok(stream) = stream else { continue };
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line).unwrap_or(0) > 2 {
            line.clear();
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", BODY.len());
        // A client that left is no failure of ours.
        let _ = stream.get_mut().write_all((head + BODY).as_bytes());
    }
}

/// The one fault that nobody may take for one: what it must be is waited for.
fn loads_slowly(place: &Place) -> Row {
    let how = "slow_load for eight cadences of the guardian";
    let fault = guardian("loads slowly, but moves", how, &["guardian_waiting"]);
    place.configure(&format!("fault = [\"slow_load={SLOW_LOAD_MS}@1\"]\n"));
    let before = place.site.pid();
    place.systemctl(&["restart", place.site.server()]);
    eventually("it loads", || (place.site.pid() != before && place.site.models() == Some(503)).then_some(()));
    let (since, runs) = (Instant::now(), place.site.runs());
    let (mut due, mut waited, mut seen) = (since, 0, None);
    while place.site.models() != Some(200) {
        assert!(since.elapsed() < PATIENCE, "it loads for ever");
        due += GUARDIAN.cadence();
        wait_until(due);
        let told = events(place.tick(GUARDIAN));
        let quiet = told.iter().all(|(level, event)| level == "info" && event.starts_with("guardian_"));
        assert!(quiet, "{told:?} of one that loads");
        if told.iter().any(|(_, event)| event == "guardian_waiting") {
            waited += 1;
            seen.get_or_insert(since.elapsed());
        }
    }
    place.configure("");
    assert_eq!(place.site.runs(), runs, "it was left alone");
    Row { fault, seen: seen.map(|after| (after, format!("guardian_waiting {waited} times, 0 restarts"))) }
}

fn canary(place: &Place, name: &'static str, how: &'static str, kind: &str) -> Row {
    let fault = Fault::new(CANARY, name, how, &["canary_failed"]);
    let settings = format!("fault = [\"{kind}\"]\n");
    fault.tell(|| place.tick(CANARY), || place.restart(&settings), |()| place.restart(""))
}
