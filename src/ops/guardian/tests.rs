//! The guardian beside doubles: a supervisor that counts, and sockets that answer as told. The whole, with real
//! processes, is in `tests/it`.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

/// A supervisor that restarts and loads nothing, and counts.
#[derive(Default)]
struct Counting {
    service: Option<Service>,
    restarts: Cell<u32>,
    definitions: PathBuf,
    /// What was unloaded and loaded, in order.
    switched: RefCell<Vec<String>>,
}

impl Supervisor for Counting {
    fn name(&self) -> &'static str {
        "the double"
    }

    fn server(&self) -> &'static str {
        "server"
    }

    fn look(&self, _: &str) -> anyhow::Result<Option<Service>> {
        Ok(self.service.clone())
    }

    fn restart(&self, _: &str) -> anyhow::Result<()> {
        self.restarts.set(self.restarts.get() + 1);
        Ok(())
    }

    fn definitions(&self) -> anyhow::Result<PathBuf> {
        Ok(self.definitions.clone())
    }

    fn load(&self, service: &str, _: &Path) -> anyhow::Result<()> {
        self.switched.borrow_mut().push(format!("load {service}"));
        Ok(())
    }

    fn unload(&self, service: &str) -> anyhow::Result<()> {
        self.switched.borrow_mut().push(format!("unload {service}"));
        Ok(())
    }
}

struct Site {
    home: tempfile::TempDir,
    supervisor: Counting,
    program: PathBuf,
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (program, definition) = (home.path().join("program"), home.path().join("definition"));
        fs::write(&program, "").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&definition, format!("[Service]\nExecStart={}\n", program.display())).unwrap();
        let service = Service {
            pid: Some(1),
            program: Some(program.clone()),
            definition: Some(definition),
            ..Service::default()
        };
        let definitions = home.path().to_owned();
        let supervisor = Counting { service: Some(service), definitions, ..Counting::default() };
        Self { home, supervisor, program }
    }

    /// One with a fallback that could start.
    fn with_fallback() -> Self {
        let site = Self::new();
        fs::write(site.home.path().join("watch.toml"), "[fallback]\nenabled = true\n").unwrap();
        fs::write(site.fallback(), "[Service]\nExecStart=/bin/sh serve\n").unwrap();
        site
    }

    /// The fallback's definition.
    fn fallback(&self) -> PathBuf {
        self.home.path().join("sanctum-mlx-fallback.service")
    }

    /// What the last start of the server said.
    fn says(&self, words: &str) {
        fs::create_dir_all(self.home.path().join("logs")).unwrap();
        fs::write(self.home.path().join("logs/serve.err"), format!("listening: plain x\n{words}\n")).unwrap();
    }

    fn switched(&self) -> Vec<String> {
        self.supervisor.switched.borrow().clone()
    }

    /// Ticks a minute apart, from this minute on, while the fallback has the word and answers this.
    fn followed(&self, from: u64, count: u64, answer: &Answer) -> Vec<(u8, Vec<&'static str>)> {
        let lock = Lock::of(self.home.path()).unwrap().unwrap();
        let plan = Plan::of(self.home.path()).unwrap();
        let guard = self.guard(&plan, Some(&lock));
        let tick = |minute: u64| {
            let (health, events) = guard.follow(&lock, std::slice::from_ref(answer), minute * 60);
            (health as u8, events.iter().map(|event| event.kind.name).collect())
        };
        (from..from + count).map(tick).collect()
    }

    fn guard<'a>(&'a self, plan: &'a Plan, lock: Option<&'a Lock>) -> Guard<'a> {
        let limit = Duration::from_secs(5);
        let supervisor = &self.supervisor;
        Guard { home: self.home.path(), plan, lock, supervisor, service: "server", limit, drain_seconds: 25 }
    }

    /// Ticks a minute apart, each of which sees the same; their exit codes and events.
    fn ticks(&self, count: u64, looks: impl Fn() -> Vec<Look>) -> Vec<(u8, Vec<&'static str>)> {
        let plan = Plan::of(self.home.path()).unwrap();
        let guard = self.guard(&plan, None);
        let tick = |minute| {
            let (health, events) = guard.act(looks(), minute * 60);
            (health as u8, events.iter().map(|event| event.kind.name).collect())
        };
        (1..=count).map(tick).collect()
    }

    /// An admin listener that says this for as long as the test runs.
    fn inside(&self, health: &str) {
        let body = health.to_owned();
        let admin = answering(200, body);
        let state = serde_json::json!({"pid": 1, "admin": admin});
        fs::create_dir_all(self.home.path().join("state")).unwrap();
        fs::write(self.home.path().join("state/serve.json"), state.to_string()).unwrap();
    }
}

/// The address of a server that answers everything with this.
fn answering(status: u16, body: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap_or(0) > 2 {
                line.clear();
            }
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            // A client that left is no failure of the double.
            let _ = stream.get_mut().write_all((head + &body).as_bytes());
        }
    });
    address
}

fn refused() -> Vec<Look> {
    vec![Look { url: "u".to_owned(), answer: Answer::Failed("refused".to_owned()), silent: false, instance: None }]
}

fn silent() -> Vec<Look> {
    vec![Look { url: "u".to_owned(), answer: Answer::Failed("no answer".to_owned()), silent: true, instance: None }]
}

const WORKING: &str = r#"{"instance":"a","running_rows":8,"last_step_age_seconds":0.2,"runtime_tick_age_seconds":0.1}"#;
const HUNG: &str = r#"{"instance":"a","running_rows":1,"last_step_age_seconds":90,"runtime_tick_age_seconds":0.1}"#;

#[test]
fn p9_a_server_that_is_down_is_restarted_at_the_third_tick_and_a_human_is_called_for_the_fourth_restart() {
    let site = Site::new();
    let ticks = site.ticks(13, refused);
    assert_eq!(ticks[0], (1, vec!["guardian_failed"]));
    let restarted: Vec<usize> =
        ticks.iter().enumerate().filter(|(_, tick)| tick.1 == ["guardian_restarted"]).map(|(at, _)| at).collect();
    assert_eq!(restarted, [2, 5, 8]);
    assert_eq!(ticks[11], (2, vec!["rate_limited"]));
    assert_eq!(site.supervisor.restarts.get(), 3);
}

#[test]
fn p9_a_server_that_would_not_boot_is_left_running_and_a_human_is_called() {
    let site = Site::new();
    fs::remove_file(&site.program).unwrap();
    let ticks = site.ticks(30, refused);
    assert!(ticks[2..].iter().all(|tick| *tick == (2, vec!["restart_withheld"])), "{ticks:?}");
    let unloaded = Site { supervisor: Counting::default(), ..Site::new() };
    assert_eq!(unloaded.ticks(3, refused)[2], (2, vec!["restart_withheld"]));
    assert_eq!(site.supervisor.restarts.get() + unloaded.supervisor.restarts.get(), 0);
}

#[test]
fn p9_half_an_hour_of_saturation_restarts_nothing_and_a_hang_does() {
    let site = Site::new();
    site.inside(WORKING);
    let ticks = site.ticks(30, silent);
    assert!(ticks[2..].iter().all(|tick| *tick == (1, vec!["guardian_busy"])), "{ticks:?}");
    assert_eq!(site.supervisor.restarts.get(), 0);
    let hung = Site::new();
    hung.inside(HUNG);
    assert_eq!(hung.ticks(3, silent)[2], (1, vec!["guardian_restarted"]));
    let closed = Site::new();
    closed.inside(WORKING);
    assert_eq!(closed.ticks(3, refused)[2], (1, vec!["guardian_restarted"]), "a port that refuses is not busy");
}

#[test]
fn a_port_that_another_process_answers_on_is_told_and_counts_as_failed() {
    let site = Site::new();
    site.inside(WORKING);
    let served = |instance: Option<&str>| {
        vec![Look { url: "u".to_owned(), answer: Answer::Served, silent: false, instance: instance.map(str::to_owned) }]
    };
    assert_eq!(site.ticks(1, || served(Some("a")))[0], (0, vec!["guardian_ok"]));
    assert_eq!(site.ticks(1, || served(Some("b")))[0], (1, vec!["port_squatted", "guardian_failed"]));
    assert_eq!(site.ticks(1, || served(None))[0], (1, vec!["port_squatted", "guardian_failed"]));
    // Its process ended: who answers now is somebody else, unless it did so just before.
    let mut ended = Site::new();
    ended.inside(WORKING);
    assert_eq!(ended.ticks(1, || served(Some("a")))[0], (0, vec!["guardian_ok"]));
    ended.supervisor.service.as_mut().unwrap().pid = None;
    assert_eq!(ended.ticks(1, || served(Some("a")))[0], (0, vec!["guardian_ok"]));
    assert_eq!(ended.ticks(1, || served(Some("b")))[0], (1, vec!["port_squatted", "guardian_failed"]));
    assert_eq!(ended.ticks(1, || served(None))[0], (1, vec!["port_squatted", "guardian_failed"]));
}

#[test]
fn each_answer_of_a_listener_is_told_apart() {
    let error = |code: &str| format!(r#"{{"error":{{"message":"words","code":"{code}"}}}}"#);
    let failed = |status: u16| Answer::Failed(format!("u: {status} words"));
    let cases = [
        (200, r#"{"data":[{"id":"m"}],"sanctum":{"instance":"a"}}"#.to_owned(), Answer::Served),
        (200, r#"{"data":[]}"#.to_owned(), Answer::Failed("u: 200, but no model is listed".to_owned())),
        (503, error("loading"), Answer::Loading),
        (503, error("draining"), Answer::Draining),
        (503, error("crash_loop"), Answer::CrashLoop("words".to_owned())),
        (503, error("stalled"), failed(503)),
        (500, error("internal"), failed(500)),
    ];
    for (status, body, answer) in cases {
        let address = answering(status, body);
        let client = Client::new(&format!("http://{address}"), None, Duration::from_secs(5)).unwrap();
        assert_eq!(look_at("u", &client).answer, answer);
    }
}

const SWITCHED: [&str; 2] = ["unload server", "load sanctum-mlx-fallback.service"];

#[test]
fn p9_a_server_that_no_restart_can_help_gives_way_to_the_fallback() {
    let gone = Site::with_fallback();
    fs::remove_file(&gone.program).unwrap();
    assert_eq!(gone.ticks(3, refused)[2], (1, vec!["fallback_activated"]));
    let limited = Site::with_fallback();
    assert_eq!(limited.ticks(12, refused)[11], (1, vec!["fallback_activated"]));
    let fatal = Site::with_fallback();
    fatal.says("error: cannot listen on 127.0.0.1:1337: Address already in use");
    assert_eq!(fatal.ticks(3, refused)[2], (1, vec!["fallback_activated"]));
    let mut ended = Site::with_fallback();
    let service = ended.supervisor.service.as_mut().unwrap();
    (service.pid, service.last_exit) = (None, Some(78));
    assert_eq!(ended.ticks(3, refused)[2], (1, vec!["fallback_activated"]));
    for (site, restarts) in [(gone, 0), (limited, 3), (fatal, 0), (ended, 0)] {
        assert_eq!((site.switched(), site.supervisor.restarts.get()), (SWITCHED.map(str::to_owned).to_vec(), restarts));
    }
}

#[test]
fn p9_in_its_brake_a_server_gives_way_only_when_its_reason_will_not_go_away() {
    let brake = || {
        let answer = Answer::CrashLoop("exit 70".to_owned());
        vec![Look { url: "u".to_owned(), answer, silent: false, instance: None }]
    };
    let site = Site::with_fallback();
    assert!(site.ticks(5, brake).iter().all(|tick| *tick == (1, vec!["crash_loop"])));
    site.says("[metal] out of memory");
    assert_eq!(site.ticks(1, brake)[0], (1, vec!["fallback_activated"]));
}

#[test]
fn p9_without_a_fallback_that_could_start_everything_is_as_without_one() {
    let none = Site::new();
    none.says("out of memory");
    assert_eq!(none.ticks(3, refused)[2], (1, vec!["guardian_restarted"]));
    let broken = Site::with_fallback();
    fs::write(broken.fallback(), "[Service]\nExecStart=/nowhere/python serve\n").unwrap();
    broken.says("out of memory");
    assert_eq!(broken.ticks(3, refused)[2], (1, vec!["guardian_restarted"]), "a restart is better than nothing");
    fs::remove_file(&broken.program).unwrap();
    fs::remove_file(broken.fallback()).unwrap();
    assert_eq!(broken.ticks(3, refused)[2], (2, vec!["restart_withheld"]));
    assert!(none.switched().is_empty() && broken.switched().is_empty());
    assert_eq!((Lock::of(none.home.path()).unwrap(), Lock::of(broken.home.path()).unwrap()), (None, None));
}

#[test]
fn p9_while_the_fallback_serves_it_is_what_is_watched_and_nothing_falls_back_from_it() {
    let mut site = Site::with_fallback();
    fs::remove_file(&site.program).unwrap();
    site.ticks(3, refused);
    let down = Answer::Failed("refused".to_owned());
    assert_eq!(site.followed(4, 1, &down), [(0, vec!["fallback_activated", "guardian_waiting"])], "it loads its model");
    assert_eq!(site.followed(5, 1, &Answer::Served), [(0, vec!["fallback_activated", "guardian_ok"])]);
    let ticks = site.followed(60, 12, &down);
    let restarted: Vec<usize> = (0..12).filter(|at| ticks[*at].1[1] == "guardian_restarted").collect();
    assert_eq!((restarted, &ticks[11]), (vec![2, 5, 8], &(2, vec!["fallback_activated", "rate_limited"])));
    assert!(site.switched().iter().all(|step| SWITCHED.contains(&step.as_str())), "{:?}", site.switched());

    // Cut off before the fallback was loaded: nothing has a process, and the first three ticks finish it.
    site.supervisor.service = None;
    fs::remove_file(site.home.path().join("state/guardian-fallback.json")).unwrap();
    site.supervisor.switched.borrow_mut().clear();
    assert_eq!(site.followed(4, 3, &down)[2], (1, vec!["fallback_activated", "guardian_restarted"]));
    assert_eq!(site.switched(), SWITCHED);
}

#[test]
fn a_guardian_does_nothing_while_another_has_its_turn_or_has_switched() {
    let site = Site::with_fallback();
    let turn = crate::ops::turn::take(site.home.path()).unwrap();
    assert_eq!(site.ticks(3, refused)[2], (1, vec!["guardian_waiting"]));
    drop(turn);
    let plan = Plan::of(site.home.path()).unwrap();
    let switch = crate::ops::fallback::switch::Switch {
        home: site.home.path(),
        supervisor: &site.supervisor,
        primary: "server",
    };
    switch.activate(&plan, "a person said so", 0).unwrap();
    assert_eq!(site.ticks(1, refused)[0], (1, vec!["guardian_waiting"]), "this tick began before");
    let twice = switch.activate(&plan, "again", 0).unwrap_err().to_string();
    assert!(twice.contains("no fallback from the fallback"), "{twice}");
    assert_eq!((site.switched(), site.supervisor.restarts.get()), (SWITCHED.map(str::to_owned).to_vec(), 0));
}
