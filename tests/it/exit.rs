//! The process ends when it must, with the code that tells the story, whatever hangs (L5–L7, L9, L10, L12, L14, E7, E8),
//! and the core of the incident of 2026-04-19 as one test.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::http::{Connection, chat};
use crate::support::server::{Ended, Running, Server};
use crate::support::{SLACK, eventually, tell_trials, tiny, trials};

/// D of the tests.
const DRAIN: Duration = Duration::from_secs(1);
/// The process is gone by D + 2 s.
const GONE: Duration = DRAIN.saturating_add(Duration::from_secs(2));
/// Trials that run beside each other on a machine of two cores.
const SIDE_BY_SIDE: usize = 4;

/// Runs `trial` so many times, four at a time; each gets its number.
fn many(row: &str, test_tier: usize, trial: impl Fn(usize) + Sync) {
    let count = trials(test_tier);
    let numbers: Vec<usize> = (0..count).collect();
    for together in numbers.chunks(SIDE_BY_SIDE) {
        std::thread::scope(|scope| {
            for number in together {
                scope.spawn(|| trial(*number));
            }
        });
    }
    tell_trials(row, count, test_tier);
}

/// A stream that has given its first token.
fn streaming(running: &Running) -> Connection {
    let mut connection = running.connect();
    connection.send_chat(&chat("Count.", 100_000, true)).expect("the server reads");
    let (status, _) = connection.head().expect("the stream begins");
    assert_eq!(status, 200);
    connection
}

fn assert_gone(ended: &Ended, code: i32, bound: Duration) {
    assert_eq!(ended.code, code, "{}", ended.stderr);
    assert!(ended.after <= bound + SLACK, "gone after {:?}, allowed {bound:?}\n{}", ended.after, ended.stderr);
}

#[test]
fn l5_exits_while_native_code_spins() {
    many("L5", 12, |_| {
        let running = Server::new(&tiny()).with(["--fault", "spin_native@3"]).ready();
        let mut stuck = running.connect();
        stuck.send_chat(&chat("Count.", 64, false)).expect("the server reads");
        until_running(&running);
        let since = Instant::now();
        running.signal("TERM");
        assert_gone(&running.ended(since), 75, GONE);
    });
}

#[test]
fn l5_exits_while_a_client_never_reads() {
    many("L5", 12, |_| {
        let running = Server::new(&tiny()).with(["--fault", "slow=5@1"]).ready();
        let _never_read: Vec<Connection> = (0..3)
            .map(|_| {
                let mut connection = running.connect();
                connection.send_chat(&chat("Count.", 100_000, true)).expect("the server reads");
                connection
            })
            .collect();
        until_running(&running);
        let since = Instant::now();
        running.signal("TERM");
        let ended = running.ended(since);
        assert!(matches!(ended.code, 0 | 75), "{}", ended.stderr);
        assert!(ended.after <= GONE + SLACK, "gone after {:?}\n{}", ended.after, ended.stderr);
    });
}

#[test]
fn l5_exits_while_every_tokio_worker_is_blocked() {
    many("L5", 12, |_| {
        let running = Server::new(&tiny()).with(["--fault", "block_workers@2"]).ready();
        let mut stuck = running.connect();
        stuck.send_chat(&chat("Count.", 64, true)).expect("the server reads");
        eventually("the workers are blocked", || running.stderr().contains("blocking every worker").then_some(()));
        let since = Instant::now();
        running.signal("TERM");
        assert_gone(&running.ended(since), 75, GONE);
    });
}

#[test]
fn l6_many_terminations_are_one() {
    many("L6", 50, |trial| {
        let running = Server::new(&tiny()).with(["--fault", "spin_native@3"]).ready();
        let mut stuck = running.connect();
        stuck.send_chat(&chat("Count.", 64, true)).expect("the server reads");
        until_running(&running);
        let since = Instant::now();
        let signals = 2 + trial % 49;
        // Gaps of 0 to 500 ms in all, spread by a fixed linear congruence so that a trial can be repeated.
        let gap = Duration::from_millis((trial as u64 * 7_919 % 501) / signals as u64);
        for _ in 0..signals {
            running.signal("TERM");
            std::thread::park_timeout(gap);
        }
        assert_gone(&running.ended(since), 75, GONE);
    });
}

#[test]
fn l7_interrupted_twice_leaves_at_once_and_a_termination_while_loading_too() {
    let running = Server::new(&tiny()).with(["--fault", "slow=200@1"]).ready();
    let _stream = streaming(&running);
    running.signal("INT");
    eventually("the drain", || running.stderr().contains("draining").then_some(()));
    let since = Instant::now();
    running.signal("INT");
    assert_gone(&running.ended(since), 130, Duration::from_secs(1));

    let running = Server::new(&tiny()).with(["--fault", "slow_load=30000@1"]).start();
    eventually("loading", || running.stderr().contains("loading").then_some(()));
    let since = Instant::now();
    running.signal("TERM");
    assert_gone(&running.ended(since), 0, Duration::from_secs(1));
    tell_trials("L7", 2, 2);
}

#[test]
fn l10_after_kill_9_the_next_process_binds_the_same_ports_and_is_ready() {
    let home = tempfile::TempDir::new().expect("a folder");
    let home = home.path().join("home");
    let first = Server::new(&tiny()).at_home(&home).ready();
    let (plain, tls) = (first.plain(), first.tls());
    let load = Instant::now();
    drop(first);
    let again = Server::new(&tiny()).at_home(&home).ready();
    drop(again);
    let load = load.elapsed();
    let kills = trials(20);
    for _ in 0..kills {
        let since = Instant::now();
        let (plain_port, tls_port) = (plain.port().to_string(), tls.port().to_string());
        let mut running = Server::new(&tiny())
            .at_home(&home)
            .with(["--port", &plain_port, "--tls-port", &tls_port, "--crash-loop-starts", "0"])
            .start();
        let bound = eventually("both ports", || running.announced("plain").zip(running.announced("tls")));
        assert!(since.elapsed() <= Duration::from_secs(1) + SLACK, "bound after {:?}", since.elapsed());
        assert_eq!(bound, (plain, tls));
        running.until_ready();
        assert!(since.elapsed() <= load + Duration::from_secs(2), "ready after {:?}", since.elapsed());
        let answer = running.connect().get("/v1/models").expect("an answer");
        assert_eq!(answer.status, 200);
        // Killed in the middle of an answer, with connections on both ports: nothing of them may hold up the next one.
        let _stream = streaming(&running);
        let _handshake = Connection::to(tls);
        running.signal("KILL");
        assert_eq!(running.ended(Instant::now()).code, -9);
    }
    tell_trials("L10", kills, 20);
}

#[test]
fn l14_nothing_runs_after_exit_under_load() {
    many("L14", 50, |_| {
        let running = Server::new(&tiny()).with(["--drain-seconds", "0.05"]).ready();
        let _streams: Vec<Connection> = (0..4).map(|_| streaming(&running)).collect();
        let since = Instant::now();
        running.signal("TERM");
        let ended = running.ended(since);
        assert!(matches!(ended.code, 0 | 75), "a crash at exit: {ended:?}");
        assert!(ended.stderr.contains("draining"), "the logs are flushed: {}", ended.stderr);
    });
}

#[test]
fn l9_the_exit_code_tells_the_story() {
    let ended = |server: Server| server.start().ended(Instant::now());
    let drained = Server::new(&tiny()).ready();
    drained.signal("TERM");
    assert_eq!(drained.ended(Instant::now()).code, 0, "drained");
    assert_eq!(ended(Server::new(&tiny()).with(["--no-such-flag"])).code, 64, "usage");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    assert_eq!(ended(Server::new(&tiny()).with(["--port", &port])).code, 71, "failed bind");
    assert_eq!(ended(Server::new(&tiny()).with(["--drain-seconds", "-1"])).code, 78, "configuration");
    let dead = Server::new(&tiny()).with(["--fault", "error@2"]).ready();
    let answer = dead.connect().post_chat(&chat("Count.", 8, false)).expect("an answer");
    assert_eq!(answer.status, 500);
    assert_eq!(dead.ended(Instant::now()).code, 70, "engine dead");
    // 75 is shown by l5, 130 and 0 while loading by l7.
    tell_trials("L9", 5, 5);
}

#[test]
fn e7_a_panic_anywhere_on_the_inference_thread_answers_everyone_and_ends_with_70() {
    let sites = ["prefill", "decode", "sample", "cache", "trim"];
    many("E7", 50, |trial| {
        let site = sites[trial % sites.len()];
        let fault = format!("panic@{}:{site}", 1 + trial / sites.len());
        let running = Server::new(&tiny()).with(["--fault", &fault]).ready();
        let address = running.plain();
        // A site may be visited again only by a later request, so each client asks until the server is gone.
        let clients: Vec<_> = (0..3)
            .map(|_| {
                std::thread::spawn(move || {
                    let ask = || Connection::try_to(address).ok()?.post_chat(&chat("Count.", 16, false)).ok();
                    std::iter::from_fn(ask).map(|answer| answer.status).collect::<Vec<_>>()
                })
            })
            .collect();
        let statuses: Vec<u16> = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
        let ended = running.ended(Instant::now());
        assert_eq!(ended.code, 70, "{fault}: {}", ended.stderr);
        assert!(ended.stderr.contains("injected panic"), "{}", ended.stderr);
        assert!(statuses.iter().all(|status| matches!(status, 200 | 500 | 503)), "{fault}: {statuses:?}");
        assert!(statuses.contains(&500), "{fault}: whoever was in flight is told: {statuses:?}");
    });
}

#[test]
fn e8_a_device_error_tells_the_client_and_ends_with_70() {
    let running = Server::new(&tiny()).with(["--fault", "error@4"]).ready();
    let mut stream = running.connect();
    let since = Instant::now();
    let answer = stream.post_chat(&chat("Count.", 64, true)).expect("the stream ends well-formed");
    assert_eq!(answer.status, 200);
    let events = answer.events();
    assert!(events.last().is_some_and(|last| last.contains("\"error\"")), "{events:?}");
    assert!(!events.contains(&"[DONE]"), "a failed stream is not done: {events:?}");
    assert_gone(&running.ended(since), 70, Duration::from_secs(2));
}

#[test]
fn the_incident_of_2026_04_19_a_hung_request_and_two_racing_terminations_end_in_a_refused_port() {
    let running = Server::new(&tiny())
        .with(["--fault", "spin_native@3", "--stall-degraded-seconds", "0.2", "--stall-unready-seconds", "0.5"])
        .with(["--stall-dead-seconds", "60", "--watch-seconds", "0.1"])
        .ready();
    let (plain, tls) = (running.plain(), running.tls());
    let mut stuck = running.connect();
    stuck.send_chat(&chat("Count.", 64, false)).expect("the server reads");
    eventually("/v1/models says 503", || {
        let answer = running.connect().get("/v1/models").expect("an answer");
        (answer.status == 503).then_some(())
    });
    let since = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| running.signal("TERM"));
        scope.spawn(|| running.signal("TERM"));
    });
    let ended = running.ended(since);
    assert_gone(&ended, 75, GONE);
    assert!(TcpStream::connect(plain).is_err() && TcpStream::connect(tls).is_err(), "both ports refuse");
}

/// Waits until a row runs, as the admin listener sees it.
fn until_running(running: &Running) {
    eventually("a running row", || {
        let health = Connection::to(running.admin()).get("/health").expect("the admin listener answers").json();
        (health["running_rows"].as_u64() > Some(0)).then_some(())
    });
}

#[test]
fn l11_after_five_bad_ends_nothing_is_loaded_and_everyone_is_told_until_sighup_or_the_pause_is_over() {
    let home = tempfile::TempDir::new().expect("a folder");
    let home = home.path().join("home");
    let server = || Server::new(&tiny()).at_home(&home);
    for _ in 0..5 {
        let running = server().ready();
        running.signal("KILL");
        assert_eq!(running.ended(Instant::now()).code, -9);
    }
    let mut limping = server().start();
    eventually("the brake", || limping.stderr().contains("crash loop: 5 starts").then_some(()));
    eventually("the listeners", || limping.stderr().contains("listening:").then_some(()));
    assert!(!limping.stderr().contains("loading"), "no weight is read");
    let [plain, admin] = ["plain", "admin"].map(|name| limping.announced(name).expect("it listens"));
    for (address, path) in [(plain, "/v1/models"), (admin, "/health")] {
        let answer = Connection::to(address).get(path).expect("an answer");
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
        assert!(answer.body.contains("crash_loop") && answer.body.contains("killed"), "{path}: {}", answer.body);
    }
    assert_eq!(Connection::to(plain).post_chat(&chat("Count.", 4, false)).expect("an answer").status, 503);
    limping.signal("HUP");
    limping.until_ready();
    assert_eq!(limping.connect().post_chat(&chat("Count.", 4, false)).expect("an answer").status, 200);
    limping.signal("TERM");
    assert_eq!(limping.ended(Instant::now()).code, 0);

    tell_trials("L11", 5, 5);
}

#[test]
fn l11_a_pause_ends_by_itself_and_a_mistake_that_is_made_again_and_again_is_slowed_down() {
    let home = tempfile::TempDir::new().expect("a folder");
    let home = home.path().join("home");
    let server = || Server::new(&tiny()).at_home(&home).with(["--crash-loop-starts", "1", "--crash-loop-seconds", "8"]);
    let killed = server().ready();
    killed.signal("KILL");
    assert_eq!(killed.ended(Instant::now()).code, -9);
    let running = server().ready();
    assert!(running.stderr().contains("crash loop: 1 starts within 8 s"), "{}", running.stderr());
    running.signal("TERM");
    assert_eq!(running.ended(Instant::now()).code, 0);

    let home = home.with_file_name("other");
    let refuse = || {
        let server = Server::new(std::path::Path::new("/nowhere/model.gguf")).at_home(&home);
        let ended =
            server.with(["--crash-loop-starts", "2", "--crash-loop-seconds", "20"]).start().ended(Instant::now());
        assert_eq!(ended.code, 78, "{}", ended.stderr);
        ended
    };
    let (first, second) = (refuse(), refuse());
    assert!(!first.stderr.contains("again and again"), "{}", first.stderr);
    assert!(second.stderr.contains("again and again") && second.after >= Duration::from_secs(2), "{second:?}");
}
