//! 2026-04-19 once more, with real processes below a supervisor that behaves as launchd does: what broke then is told on
//! each channel of its own, never answered with 200, and heals by itself (P9); and the other ways in which a
//! supervisor could do harm (L11, L13, E8).

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::http::{Connection, chat};
use crate::support::server::Server;
use crate::support::site::{HANGS, Site, signal};
use crate::support::supervisor::Kind;
use crate::support::{SLACK, eventually, tell_trials, tiny};

/// Ten seconds of throttle are half a second.
const SCALE: f64 = 0.05;
/// A drain of one second, and two.
const GONE: Duration = Duration::from_secs(3);

/// What broke when, who said so when, when it healed.
struct Timeline(Instant);

impl Timeline {
    fn say(&self, what: &str) {
        println!("{:7.3} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

/// Ends whoever watches the flag.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn ticked(code: i32, event: &str) -> (i32, Vec<String>) {
    (code, vec![event.to_owned()])
}

/// Loads a server that answers, teaches the canary what is right, and puts another in its place that hangs at the next
/// question; the one after it does not. The process of the one that hangs.
fn load_one_that_hangs(site: &Site) -> u32 {
    let first = site.load();
    site.watch(&format!("expected = {}", serde_json::Value::from(right_answer(site))));
    assert_eq!(site.canary(), ticked(0, "canary_ok"));
    site.configure(HANGS);
    assert_eq!(site.double.call(&["kickstart", "-k", "gui/0/com.sanctum.mlx"]), (0, String::new()));
    eventually("the first is gone", || (site.pid() != Some(first)).then_some(()));
    let pid = site.until_ready();
    site.configure("");
    pid
}

/// A letter of the answer to the canary's question: what a model of random weights says there is strange.
pub fn right_answer(site: &Site) -> String {
    let body = serde_json::json!({
        "messages": [{"role": "user", "content": "What is 2+2? Respond with only the number."}],
        "temperature": 0,
        "max_completion_tokens": 512,
    });
    let answer = Connection::to(site.plain).post_chat(&body.to_string()).expect("an answer").json();
    let text = answer["choices"][0]["message"]["content"].as_str().expect("a text");
    let letter = text.chars().find(|letter| !letter.is_control() && !letter.is_whitespace());
    letter.unwrap_or_else(|| panic!("no letter in {text:?}")).to_string()
}

#[test]
fn p9_the_incident_of_2026_04_19_is_told_on_each_channel_refuses_and_heals_by_itself() {
    let site = Site::new(Kind::Launchd, SCALE);
    let line = Timeline(Instant::now());
    let pid = load_one_that_hangs(&site);
    assert_eq!((site.guardian(), site.integrity().0), (ticked(0, "guardian_ok"), 0));
    let runs = site.runs();
    line.say("the server serves; guardian, canary and integrity are healthy");

    a_clean_up_removes_the_binary(&site, &line);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let witness = scope.spawn(|| {
            let mut seen = Vec::new();
            while !over.load(Ordering::Acquire) {
                seen.push((Instant::now(), site.models()));
                std::thread::park_timeout(Duration::from_millis(20));
            }
            seen
        });
        // Also when something below panics: the scope waits for the witness.
        let ends = Ends(&over);
        let (_stuck, silent) = site.hang();
        line.say("a request hangs in the engine; GET /v1/models says 503");
        told_to_stop_twice(&site, &line, pid);
        told_by_guardian_and_canary(&site, &line);
        assert_eq!(site.runs(), runs, "nothing was started while the binary is missing");

        let returned = Instant::now();
        site.put_program();
        line.say("the binary is back");
        site.until_ready();
        line.say("the supervisor started the server; it is ready");
        assert_eq!((site.chat().0, site.runs()), (200, runs + 1), "one start, by nobody's hand");
        drop(ends);
        let seen = witness.join().expect("the witness does not panic");
        let lied = seen.iter().filter(|(at, status)| (silent..returned).contains(at) && *status == Some(200));
        assert_eq!(lied.count(), 0, "nothing answered 200 without being able to chat");
    });
    assert_eq!((site.guardian(), site.canary()), (ticked(0, "guardian_ok"), ticked(0, "canary_ok")));
    let recovered = |event: &str| site.heard().contains(&(event.to_owned(), true));
    assert_eq!(site.integrity().0, 0);
    assert!(recovered("restart_withheld") && recovered("canary_failed"), "{:?}", site.heard());
    assert!(recovered("integrity_program"), "{:?}", site.heard());
    line.say("guardian, canary and integrity are healthy again, and said so");
    tell_trials("P9", 1, 1);
}

/// A clean-up removes it while everything is well: the server itself says so, and serves.
fn a_clean_up_removes_the_binary(site: &Site, line: &Timeline) {
    fs::remove_file(site.program()).expect("the file is ours");
    line.say("a clean-up removed the binary");
    eventually("the server's own alarm", || (site.health()["binary_integrity"] == false).then_some(()));
    assert!(site.log().contains("the executable is not what it was"), "{}", site.log());
    assert_eq!(site.models(), Some(200), "what runs still serves");
    line.say("the server said so on its log and in /health, and still serves");
    let (code, events) = site.integrity();
    assert_eq!((code, events[0].as_str()), (1, "integrity_program"), "{events:?}");
    assert!(site.heard().contains(&("integrity_program".to_owned(), false)), "{:?}", site.heard());
    line.say("integrity: integrity_program, exit 1, and someone was called");
}

/// Two terminations race while the request hangs.
fn told_to_stop_twice(site: &Site, line: &Timeline, pid: u32) {
    let since = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| signal("TERM", pid));
        scope.spawn(|| signal("TERM", pid));
    });
    line.say("it is told to stop, twice");
    eventually("the end", || site.pid().is_none().then_some(()));
    let after = since.elapsed();
    assert!(after <= GONE + SLACK, "gone after {after:?}");
    let refuses = |address| TcpStream::connect(address).is_err();
    assert!(refuses(site.plain) && refuses(site.tls), "both ports refuse");
    line.say("the process is gone, and both ports refuse");
    eventually("a start that fails", || (site.double.last_end(site.server()) == Some(78)).then_some(()));
    line.say("the supervisor cannot start it: 78");
}

/// Each on its own channel, at its first tick; what the guardian alone may do, it does not.
fn told_by_guardian_and_canary(site: &Site, line: &Timeline) {
    assert_eq!(site.guardian(), ticked(1, "guardian_failed"));
    line.say("guardian: guardian_failed");
    assert_eq!(site.canary(), ticked(1, "canary_failed"));
    line.say("canary: canary_failed, and someone is called");
    assert_eq!(site.guardian(), ticked(1, "guardian_failed"));
    for _ in 0..3 {
        assert_eq!(site.guardian(), ticked(2, "restart_withheld"));
    }
    line.say("guardian: restart_withheld, and someone is called");
    let told = ["integrity_program", "canary_failed", "restart_withheld"].map(|event| (event.to_owned(), false));
    assert_eq!(site.heard(), told);
}

#[test]
fn p9_a_hung_server_that_would_not_boot_is_left_alone_until_it_would() {
    let site = Site::new(Kind::Launchd, SCALE);
    site.configure(HANGS);
    let pid = site.load();
    site.configure("");
    let _stuck = site.hang();
    fs::remove_file(site.program()).expect("the file is ours");
    let ticks: Vec<_> = (0..5).map(|_| site.guardian()).collect();
    assert_eq!(ticks[1], ticked(1, "guardian_failed"));
    assert!(ticks[2..].iter().all(|tick| *tick == ticked(2, "restart_withheld")), "{ticks:?}");
    assert_eq!((site.pid(), site.runs()), (Some(pid), 1), "0 restarts");
    site.put_program();
    assert_eq!(site.guardian(), ticked(1, "guardian_restarted"));
    eventually("it is replaced", || (site.pid() != Some(pid)).then_some(()));
    site.until_ready();
    assert_eq!((site.guardian(), site.runs()), (ticked(0, "guardian_ok"), 2));
    assert_eq!(site.chat().0, 200);
}

#[test]
fn p9_the_guardian_by_its_own_definition_heals_a_hung_server_with_nobody_at_hand() {
    let site = Site::new(Kind::Launchd, SCALE);
    site.configure(HANGS);
    let pid = site.load();
    site.configure("");
    site.load_guardian();
    eventually("its first tick", || site.events("guardian").contains(&"guardian_ok".to_owned()).then_some(()));
    let _stuck = site.hang();
    eventually("it is replaced", || (site.pid() != Some(pid)).then_some(()));
    site.until_ready();
    eventually("it is healthy again", || (site.events("guardian").last()? == "guardian_ok").then_some(()));
    assert_eq!((site.chat().0, site.runs()), (200, 2));
    let restarts = site.events("guardian").iter().filter(|event| *event == "guardian_restarted").count();
    assert_eq!(restarts, 1, "{:?}", site.events("guardian"));
}

#[test]
fn p9_a_hung_server_that_nobody_supervises_is_not_killed() {
    let site = Site::new(Kind::Launchd, SCALE);
    site.configure(HANGS);
    let ports = [site.plain, site.tls].map(|address| address.port().to_string());
    let server = Server::new(&tiny()).at_home(&site.home).program(&site.program());
    let orphan = server.with(["--port", &ports[0], "--tls-port", &ports[1]]).ready();
    let _stuck = site.hang();
    let ticks: Vec<_> = (0..3).map(|_| site.guardian()).collect();
    assert_eq!(ticks[2], ticked(2, "restart_withheld"), "{ticks:?}");
    assert_eq!(site.heard(), [("restart_withheld".to_owned(), false)]);
    let log = fs::read_to_string(site.home.join("logs/guardian.log")).expect("the guardian has a log");
    assert!(log.contains("launchd has not loaded com.sanctum.mlx"), "{log}");
    assert_eq!(site.models(), Some(503), "process {} is there", orphan.pid());
}

/// So much shorter than they are: minutes are half seconds.
const HURRY: u32 = 120;
/// A token that takes ten milliseconds, and as many of them as an answer of two minutes has.
const ANSWER_TOKENS: u32 = 2 * 60 * 1_000 / HURRY / 10;

#[test]
fn p9_thirty_minutes_of_saturation_with_answers_of_two_minutes_restart_nothing() {
    let minute = Duration::from_secs(60) / HURRY;
    let site = Site::new(Kind::Launchd, SCALE);
    // Who waits for longer than half a minute is refused too.
    site.configure("rows = 1\nqueue_jobs = 2\nqueue_wait_seconds = 0.25\nfault = [\"slow=10@1\"]\n");
    let pid = site.load();
    let over = AtomicBool::new(false);
    // How many answers a client got, and how often it was refused, until it is over.
    let client = || {
        let (mut answers, mut refusals) = (0, 0);
        while !over.load(Ordering::Acquire) {
            let since = Instant::now();
            let answer =
                Connection::to(site.plain).post_chat(&chat("Count.", ANSWER_TOKENS, false)).expect("an answer");
            match answer.status {
                200 => {
                    assert!(since.elapsed() >= minute * 2, "an answer after {:?}", since.elapsed());
                    answers += 1;
                }
                429 | 503 => {
                    refusals += 1;
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                _ => panic!("{answer:?}"),
            }
        }
        (answers, refusals)
    };
    let begun = Instant::now();
    let (answers, refusals) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6).map(|_| scope.spawn(client)).collect();
        for tick in 1..=30 {
            while let Some(left) = (begun + minute * tick).checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
            assert_eq!(site.guardian(), ticked(0, "guardian_ok"));
        }
        over.store(true, Ordering::Release);
        let done = clients.into_iter().map(|client| client.join().expect("a client"));
        done.fold((0, 0), |(answers, refusals), (more, refused)| (answers + more, refusals + refused))
    });
    let minutes = begun.elapsed().as_secs_f64() / minute.as_secs_f64();
    println!("{minutes:.0} minutes, {answers} answers of two minutes each, {refusals} refusals, 0 restarts");
    assert!(answers > 0 && refusals > 0, "it was full");
    assert_eq!((site.pid(), site.runs()), (Some(pid), 1), "0 restarts");
}

#[test]
fn p9_empty_answers_are_heard_by_the_canary_alone_and_restart_nothing() {
    let site = Site::new(Kind::Launchd, SCALE);
    site.configure("fault = [\"empty@1\"]\n");
    site.load();
    assert_eq!((site.guardian(), site.canary()), (ticked(0, "guardian_ok"), ticked(1, "canary_failed")));
    assert_eq!((site.heard(), site.runs()), (vec![("canary_failed".to_owned(), false)], 1));
}

#[test]
fn l11_a_server_that_crashes_again_and_again_below_its_supervisor_ends_in_the_brake() {
    let site = Site::new(Kind::Launchd, SCALE);
    site.configure("fault = [\"error@2\"]\n");
    site.load();
    let ask = || Some(Connection::try_to(site.plain).ok()?.post_chat(&chat("Count.", 8, false)).ok()?.body);
    eventually("the brake", || ask()?.contains("crash_loop").then_some(()));
    let ticks: Vec<_> = (0..4).map(|_| site.guardian()).collect();
    assert!(ticks.iter().all(|tick| *tick == ticked(1, "crash_loop")), "{ticks:?}");
    assert_eq!(site.runs(), 6, "the sixth stays");
    let log = site.log();
    let loads = log.lines().filter(|line| line.contains("loading") && line.contains("model=")).count();
    assert!((1..=6).contains(&loads), "{loads} loads:\n{log}");
    signal("HUP", site.pid().expect("it limps"));
    site.until_ready();
    assert_eq!((site.guardian(), site.runs()), (ticked(0, "guardian_ok"), 6));
}

#[test]
fn l13_a_kickstart_under_load_loses_only_what_outlasts_the_drain() {
    let site = Site::new(Kind::Launchd, SCALE);
    site.configure("fault = [\"slow=10@1\"]\n");
    let pid = site.load();
    assert!(site.double.call(&["print", "gui/0/com.sanctum.mlx"]).1.contains("\texit timeout = 40\n"));
    let [mut short, mut long] = [20, 100_000].map(|tokens| {
        let mut stream = Connection::to(site.plain);
        stream.send_chat(&chat("Count.", tokens, true)).expect("the server reads");
        assert_eq!(stream.head().expect("the stream begins").0, 200);
        stream
    });
    assert_eq!(site.double.call(&["kickstart", "-k", "gui/0/com.sanctum.mlx"]), (0, String::new()));
    assert!(short.answer_body().expect("it ends well").contains("[DONE]"));
    let cut = long.answer_body().unwrap_or_default();
    assert!(!cut.contains("[DONE]"), "an answer that was cut does not look whole");
    eventually("it is replaced", || (site.pid() != Some(pid)).then_some(()));
    site.until_ready();
    assert_eq!(site.chat().0, 200);
    tell_trials("L13", 1, 1);
}

#[test]
fn e8_after_a_device_error_the_supervisor_brings_it_back_within_its_throttle() {
    // The throttle of ten seconds as it is.
    let site = Site::new(Kind::Launchd, 1.0);
    site.configure("fault = [\"error@2\"]\n");
    let begun = Instant::now();
    let pid = site.load();
    let load = begun.elapsed();
    site.configure("");
    assert_eq!(site.chat().0, 500);
    eventually("the end", || (site.pid() != Some(pid)).then_some(()));
    let since = Instant::now();
    assert_eq!(site.double.last_end(site.server()), Some(70));
    site.until_ready();
    let after = since.elapsed();
    println!("ready {after:?} after the end; the first load took {load:?}");
    assert!(after <= load + Duration::from_secs(12), "ready after {after:?}, loaded within {load:?}");
    assert_eq!((site.chat().0, site.runs()), (200, 2));
}

#[test]
#[cfg(target_os = "linux")]
fn p9_below_systemd_a_hung_server_is_restarted_at_the_third_tick() {
    let site = Site::new(Kind::Systemd, SCALE);
    site.configure(HANGS);
    let pid = site.load();
    site.configure("");
    let _stuck = site.hang();
    let ticks: Vec<_> = (0..3).map(|_| site.guardian()).collect();
    assert_eq!(ticks[2], ticked(1, "guardian_restarted"), "{ticks:?}");
    eventually("it is replaced", || (site.pid() != Some(pid)).then_some(()));
    site.until_ready();
    assert_eq!((site.guardian(), site.chat().0), (ticked(0, "guardian_ok"), 200));
    assert_eq!(site.double.call(&["--user", "stop", site.server()]), (0, String::new()));
    assert_eq!((site.pid(), site.models()), (None, None), "it was waited for");
}
