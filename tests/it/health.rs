//! Health that cannot lie: live never waits (P1), ready means a real token (P2), silence is a stall (P3), a dead engine
//! is seen at once (P4), and the cheap routes carry the engine's state (P7, P8).

use std::time::{Duration, Instant};

use crate::support::http::{Connection, chat};
use crate::support::server::{Running, Server};
use crate::support::{SLACK, eventually, tell_trials, tiny};

fn status(running: &Running, path: &str) -> u16 {
    running.connect().get(path).expect("an answer").status
}

#[test]
fn p1_live_answers_while_the_engine_spins_and_the_queue_is_full() {
    let running = Server::new(&tiny()).with(["--fault", "spin_native@2", "--queue-jobs", "4", "--rows", "1"]).ready();
    let mut held: Vec<Connection> = (0..256).map(|_| running.connect()).collect();
    let until = |what: &str, gauge: &str, count: u64| {
        eventually(what, || {
            let health = Connection::to(running.admin()).get("/health").expect("an answer").json();
            (health[gauge].as_u64() >= Some(count)).then_some(())
        });
    };
    // The first must have left the queue: the others fill what it leaves, and are refused beyond that.
    held[0].send_chat(&chat("Count.", 64, false)).expect("the server reads");
    until("a row that hangs", "running_rows", 1);
    for connection in held.iter_mut().take(16).skip(1) {
        connection.send_chat(&chat("Count.", 64, false)).expect("the server reads");
    }
    until("a full queue", "queue_depth", 4);
    let mut probe = running.connect();
    for _ in 0..200 {
        let answer = probe.get("/health/live").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    // The row's p99 of 50 ms is a figure of the bench `server`; here it is shown that live is answered at all.
    tell_trials("P1", 200, 200);
}

#[test]
fn p2_ready_only_after_a_real_token_and_not_after_a_termination() {
    let running = Server::new(&tiny()).with(["--fault", "slow_load=1500@1", "--port", "0"]).start();
    let admin = eventually("the addresses are said", || running.announced("plain"));
    let mut while_loading = Connection::to(admin);
    assert_eq!(while_loading.get("/health/ready").expect("an answer").status, 503);
    assert_eq!(while_loading.get("/v1/models").expect("an answer").status, 503);
    assert_eq!(while_loading.get("/health/live").expect("an answer").status, 200);
    let mut running = running;
    running.until_ready();
    assert_eq!(status(&running, "/health/ready"), 200);
    let mut stream = running.connect();
    stream.send_chat(&chat("Count.", 100_000, true)).expect("the server reads");
    stream.head().expect("the stream begins");
    let admin = running.admin();
    let mut probe = Connection::to(admin);
    assert_eq!(probe.get("/health/ready").expect("an answer").status, 200);
    let since = Instant::now();
    running.signal("TERM");
    eventually("not ready", || (probe.get("/health/ready").expect("an answer").status == 503).then_some(()));
    let took = since.elapsed();
    assert!(took <= Duration::from_millis(100) + SLACK, "flipped after {took:?}");
    tell_trials("P2", 1, 1);
}

#[test]
fn p3_silence_degrades_then_unreadies_then_ends_with_a_dump_and_70() {
    let running = Server::new(&tiny())
        .with(["--fault", "spin_native@3", "--stall-degraded-seconds", "2", "--stall-unready-seconds", "3"])
        .with(["--stall-dead-seconds", "5"])
        .ready();
    let mut stuck = running.connect();
    stuck.send_chat(&chat("Count.", 64, false)).expect("the server reads");
    let mut probe = Connection::to(running.admin());
    let mut until = |word: &str| {
        eventually(word, || {
            let health = probe.get("/health").expect("an answer").json();
            (health["phase"] == word).then(|| health["last_step_age_seconds"].as_f64().expect("a number"))
        })
    };
    let within = |age: f64, limit: f64| assert!(age >= limit && age <= limit + 1.25, "{age} s, limit {limit} s");
    within(until("degraded"), 2.0);
    within(until("stalled"), 3.0);
    assert_eq!(status(&running, "/health/ready"), 503);
    assert_eq!(status(&running, "/v1/models"), 503);
    let answer = stuck.answer().expect("the hung request is answered");
    assert_eq!(answer.status, 500);
    let ended = running.ended(Instant::now());
    assert_eq!(ended.code, 70, "{}", ended.stderr);
    for word in ["name=inference state=R", "name=watch", "wchan=", "cpu_ticks="] {
        assert!(ended.stderr.contains(word), "the dump has {word}: {}", ended.stderr);
    }
    tell_trials("P3", 1, 1);
}

#[test]
fn p4_a_dead_engine_is_seen_at_once_and_the_process_ends() {
    let running = Server::new(&tiny()).with(["--fault", "panic@3:decode"]).ready();
    let mut probe = Connection::to(running.admin());
    let mut stuck = running.connect();
    stuck.send_chat(&chat("Count.", 64, false)).expect("the server reads");
    let since = Instant::now();
    let answer = stuck.answer().expect("the request is answered");
    assert_eq!(answer.status, 500);
    assert!(since.elapsed() <= Duration::from_secs(1) + SLACK, "answered after {:?}", since.elapsed());
    // The process may already be gone; what it may not be is ready.
    if let Ok(answer) = probe.get("/health/ready") {
        assert_eq!(answer.status, 503);
    }
    let ended = running.ended(since);
    assert_eq!(ended.code, 70);
    assert!(ended.after <= Duration::from_secs(2) + SLACK, "gone after {:?}", ended.after);
    tell_trials("P4", 1, 1);
}

#[test]
fn p7_the_cheap_routes_show_a_hang() {
    let running = Server::new(&tiny()).with(["--fault", "spin_native@3"]).ready();
    let metric = |name: &str| -> f64 {
        let body = running.connect().get("/metrics").expect("an answer").body;
        let line = body.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{body}"));
        line.rsplit(' ').next().and_then(|text| text.parse().ok()).expect("a number")
    };
    assert!((metric("sanctum_mlx_engine_up") - 1.0).abs() < f64::EPSILON);
    let models = running.connect().get("/v1/models").expect("an answer").json();
    for name in ["phase", "instance", "last_step_age_seconds", "queue_depth", "queue_oldest_age_seconds"] {
        assert!(!models["sanctum"][name].is_null(), "{name} in {models}");
    }
    let mut stuck = running.connect();
    stuck.send_chat(&chat("Count.", 64, false)).expect("the server reads");
    eventually("the age of the last step grows", || (metric("sanctum_mlx_last_step_age_seconds") > 1.5).then_some(()));
    for name in ["sanctum_mlx_queue_depth", "sanctum_mlx_queue_oldest_age_seconds"] {
        assert!(metric(name) >= 0.0);
    }
    tell_trials("P7", 1, 1);
}

#[test]
fn p8_a_blocked_runtime_is_dumped_and_the_admin_listener_still_answers() {
    let running = Server::new(&tiny()).with(["--fault", "block_workers@2"]).ready();
    let mut stuck = running.connect();
    stuck.send_chat(&chat("Count.", 64, true)).expect("the server reads");
    eventually("the dump", || running.stderr().contains("async runtime stuck").then_some(()));
    let health = Connection::to(running.admin()).get("/health/live").expect("the admin runtime answers");
    assert_eq!(health.status, 200);
    tell_trials("P8", 1, 1);
}

#[test]
fn health_tells_why_prompts_found_nothing_computed_also_while_the_engine_hangs() {
    // The proof of the start is two steps, and each of three answers five.
    let running = Server::new(&tiny()).with(["--fault", "spin_native@25"]).ready();
    let mut client = running.connect();
    let mut probe = Connection::to(running.admin());
    let mut misses_after = |question: &str| {
        client.send_chat(&chat(question, 4, false)).expect("the server reads");
        assert_eq!(client.answer().expect("an answer").status, 200);
        probe.get("/health").expect("an answer").json()["prefix_misses"].clone()
    };
    let told = |misses: &serde_json::Value, reason: &str, count: u64| {
        assert_eq!((&misses[reason], &misses["last"]["reason"]), (&count.into(), &reason.into()), "{misses}");
        misses["last"]["position"].as_u64().expect("a position")
    };
    assert_eq!(told(&misses_after("Count to three."), "cold", 1), 0);
    // What the template says before the question is alike: `<|im_start|>`, `u`, `s`, `er` and a line break.
    let diverged = misses_after("What is it?");
    assert_eq!(told(&diverged, "diverged", 1), 5);
    assert_eq!(misses_after("What is it?"), diverged, "a prompt that is known misses nothing");
    let mut stuck = running.connect();
    stuck.send_chat(&chat("And now for something else.", 64, false)).expect("the server reads");
    eventually("the last miss is told", || {
        let misses = probe_misses(&running);
        (misses["diverged"] == 2).then_some(())
    });
    eventually("the engine hangs", || {
        let health = Connection::to(running.admin()).get("/health").expect("an answer").json();
        (health["last_step_age_seconds"].as_f64() > Some(0.5)).then_some(())
    });
    assert_eq!(probe_misses(&running)["diverged"], 2);
}

fn probe_misses(running: &Running) -> serde_json::Value {
    Connection::to(running.admin()).get("/health").expect("an answer").json()["prefix_misses"].clone()
}

/// I1: what the incident did, seen by the server itself while it still serves.
#[test]
fn i1_a_server_whose_executable_is_removed_says_so_and_goes_on_and_says_when_it_is_back() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let program = folder.path().join("sanctum-mlx");
    // Not a copy: the file must be able to come back as it was.
    std::fs::hard_link(env!("CARGO_BIN_EXE_sanctum-mlx"), &program)
        .or_else(|_| std::fs::copy(env!("CARGO_BIN_EXE_sanctum-mlx"), &program).map(drop))
        .expect("the folder is ours");
    let away = folder.path().join("away");
    let running = Server::new(&tiny()).program(&program).with(["--integrity-seconds", "0.05"]).ready();
    let look = || {
        let health = Connection::to(running.admin()).get("/health").expect("an answer");
        let metrics = running.connect().get("/metrics").expect("an answer").body;
        let gauge = metrics.lines().find(|line| line.starts_with("sanctum_mlx_binary_integrity ")).expect("the gauge");
        (health.status, health.json()["binary_wrong"].as_str().map(str::to_owned), gauge.ends_with(" 1"))
    };
    assert_eq!(look(), (200, None, true));
    std::fs::rename(&program, &away).expect("the file is ours");
    let told = eventually("the server misses its executable", || Some(look()).filter(|look| !look.2));
    assert_eq!(told.0, 200, "it serves on");
    assert!(told.1.as_deref().is_some_and(|wrong| wrong.contains("it is gone")), "{told:?}");
    assert_eq!(running.connect().post_chat(&chat("Count.", 4, false)).expect("an answer").status, 200);
    std::fs::rename(&away, &program).expect("the file is ours");
    eventually("the executable is back", || (look() == (200, None, true)).then_some(()));
}

fn health(running: &Running) -> serde_json::Value {
    Connection::to(running.admin()).get("/health").expect("an answer").json()
}

fn metric(running: &Running, name: &str) -> f64 {
    let body = Connection::to(running.admin()).get("/metrics").expect("an answer").body;
    let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{body}")).parse().expect("a number")
}

/// Three minutes are nine seconds here: every time is a twentieth.
#[test]
fn p5_a_hang_of_an_idle_engine_is_found_without_any_client_and_ends_with_70() {
    let running = Server::new(&tiny())
        .with(["--fault", "spin_native@1", "--self-probe-seconds", "3", "--self-probe-deadline-seconds", "0.5"])
        .with(["--watch-seconds", "0.05"])
        .ready();
    let since = Instant::now();
    let until = |word: &str| {
        eventually(word, || Some(health(&running)).filter(|health| health["phase"] == word));
    };
    until("degraded");
    assert_eq!(health(&running)["last_self_probe"]["outcome"], "missed");
    until("stalled");
    assert_eq!(status(&running, "/v1/models"), 503);
    let ended = running.ended(since);
    assert_eq!(ended.code, 70, "{}", ended.stderr);
    assert!(ended.after <= Duration::from_secs(9) + SLACK, "gone after {:?}", ended.after);
    assert!(ended.stderr.contains("no answer to a self-probe while idle"), "{}", ended.stderr);
    tell_trials("P5", 1, 1);
}

#[test]
fn p6_self_probes_of_a_server_that_comes_to_rest_again_and_again_spend_no_step_while_a_client_is_there() {
    let running = Server::new(&tiny())
        .with(["--fault", "slow=5@1", "--self-probe-seconds", "0.05", "--watch-seconds", "0.01", "--rows", "2"])
        .ready();
    for _ in 0..5 {
        let before = metric(&running, "sanctum_mlx_self_probe_steps_total");
        eventually("a self-probe", || (metric(&running, "sanctum_mlx_self_probe_steps_total") > before).then_some(()));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let answer = running.connect().post_chat(&chat("Count.", 8, false)).expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.body);
                });
            }
        });
    }
    assert!(metric(&running, "sanctum_mlx_self_probe_steps_while_clients_total").abs() < f64::EPSILON);
    assert_eq!(health(&running)["phase"], "ready");
    tell_trials("P6", 1, 1);
}

#[test]
fn p10_a_stopped_process_is_not_stalled_when_it_goes_on_and_asks_itself_soon() {
    let running = Server::new(&tiny())
        .with(["--fault", "slow=20@1", "--watch-seconds", "0.2", "--self-probe-seconds", "3600"])
        .with(["--stall-degraded-seconds", "3", "--stall-unready-seconds", "3.5", "--stall-dead-seconds", "4"])
        .ready();
    let pause = || {
        running.signal("STOP");
        let stopped = Instant::now();
        while let Some(left) = Duration::from_secs(6).checked_sub(stopped.elapsed()) {
            std::thread::park_timeout(left);
        }
        running.signal("CONT");
        Instant::now()
    };
    let before = metric(&running, "sanctum_mlx_self_probe_steps_total");
    let woken = pause();
    eventually("a self-probe", || (metric(&running, "sanctum_mlx_self_probe_steps_total") > before).then_some(()));
    assert!(woken.elapsed() <= Duration::from_secs(5) + SLACK, "after {:?}", woken.elapsed());
    eventually("its answer", || (health(&running)["last_self_probe"]["outcome"] == "answered").then_some(()));

    let mut stream = running.connect();
    stream.send_chat(&chat("Count.", 100_000, true)).expect("the server reads");
    assert_eq!(stream.head().expect("the stream begins").0, 200);
    pause();
    for _ in 0..20 {
        stream.chunk().expect("a stream").expect("it goes on");
    }
    assert_eq!(health(&running)["phase"], "ready");
    let stderr = running.stderr();
    assert!(!stderr.contains("no progress") && !stderr.contains("does not answer"), "{stderr}");
    assert!(stderr.matches("stall clocks restart").count() >= 2, "{stderr}");
    tell_trials("P10", 2, 2);
}

/// By the limits that a server has when nothing is said, of which the last is sixty seconds.
#[test]
fn p10_a_process_that_was_stopped_for_seventy_seconds_goes_on() {
    const STOPPED: Duration = Duration::from_secs(70);
    let running = Server::new(&tiny()).with(["--fault", "slow=20@1"]).ready();
    let mut stream = running.connect();
    stream.send_chat(&chat("Count.", 100_000, true)).expect("the server reads");
    assert_eq!(stream.head().expect("the stream begins").0, 200);
    running.signal("STOP");
    let stopped = Instant::now();
    while let Some(left) = STOPPED.checked_sub(stopped.elapsed()) {
        std::thread::park_timeout(left);
    }
    running.signal("CONT");
    // More than the kernel may have kept for us: what is read was written after the pause.
    for _ in 0..200 {
        stream.chunk().expect("a stream").expect("it goes on");
    }
    assert_eq!(health(&running)["phase"], "ready");
    let stderr = running.stderr();
    assert!(stderr.contains("stall clocks restart") && !stderr.contains("no progress"), "{stderr}");
    tell_trials("P10", 1, 1);
}

#[test]
fn health_and_metrics_tell_the_memory_the_last_self_probe_and_the_executable() {
    let running =
        Server::new(&tiny()).with(["--self-probe-seconds", "0.1", "--watch-seconds", "0.05", "--port", "0"]).ready();
    let told = eventually("a self-probe and the memory", || {
        let health = health(&running);
        let whole = !health["last_self_probe"].is_null() && health["memory"]["active_bytes"].as_u64() > Some(0);
        whole.then_some(health)
    });
    let probe = &told["last_self_probe"];
    assert_eq!((&probe["outcome"], &probe["misses"]), (&"answered".into(), &0.into()), "{told}");
    assert!(probe["age_seconds"].is_f64() && probe["milliseconds"].is_u64(), "{told}");
    let memory = &told["memory"];
    assert!(memory["peak_bytes"].as_u64() >= memory["active_bytes"].as_u64() && memory["cache_bytes"].is_u64());
    let executable = &told["executable"];
    assert!(executable["path"].as_str().is_some_and(|path| path.ends_with("sanctum-mlx")), "{told}");
    assert!(executable["inode"].as_u64() > Some(0) && executable["intact"] == true, "{told}");
    assert!(metric(&running, "sanctum_mlx_memory_active_bytes") > 0.0);
    assert!(metric(&running, "sanctum_mlx_self_probe_age_seconds") >= 0.0);
    assert!(metric(&running, "sanctum_mlx_self_probe_misses").abs() < f64::EPSILON);
}

/// O4 over a real socket: the row ends for its reason, long before its answer is whole.
#[test]
fn o4_a_client_that_resets_its_stream_is_counted_as_gone_and_its_row_is_free() {
    let running = Server::new(&tiny()).with(["--rows", "1", "--fault", "slow=20@1"]).ready();
    let mut connection = running.connect();
    connection.send_chat(&chat("Count.", 200, true)).expect("the server reads");
    assert_eq!(connection.head().expect("the server answers").0, 200);
    connection.chunk().expect("a stream").expect("it goes on");
    connection.reset();
    eventually("the client is counted as gone", || {
        let metrics = running.connect().get("/metrics").expect("an answer").body;
        metrics.contains("sanctum_mlx_finishes_total{reason=\"client_disconnected\"} 1").then_some(())
    });
    let answer = running.connect().post_chat(&chat("Count.", 4, false)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}
