//! The doubles of launchd and systemd behave as what they stand for, so that tests with them mean something.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use plist::{Dictionary, Value};

use crate::support::eventually;
use crate::support::supervisor::{Double, Kind};

/// Ten seconds are one.
const SCALE: f64 = 0.1;
const NAME: &str = "com.example.x";
const TARGET: &str = "gui/0/com.example.x";

/// A property list that runs `script`, with further keys.
fn plist(double: &Double, script: &str, keys: &[(&str, Value)]) -> PathBuf {
    let log = double.root().join("log").display().to_string();
    let mut list = Dictionary::new();
    list.insert("Label".to_owned(), NAME.into());
    let words = ["/bin/sh", "-c", script].map(Value::from).to_vec();
    list.insert("ProgramArguments".to_owned(), Value::Array(words));
    list.insert("StandardOutPath".to_owned(), log.into());
    keys.iter().for_each(|(key, value)| drop(list.insert((*key).to_owned(), value.clone())));
    let path = double.definitions().join(format!("{NAME}.plist"));
    Value::Dictionary(list).to_file_xml(&path).expect("the folder is ours");
    path
}

fn log(double: &Double) -> String {
    fs::read_to_string(double.root().join("log")).unwrap_or_default()
}

fn bootstrap(double: &Double, path: &Path) -> (i32, String) {
    double.call(&["bootstrap", "gui/0", path.to_str().expect("UTF-8")])
}

#[test]
fn launchctl_exits_as_launchctl_does() {
    let double = Double::new(Kind::Launchd, SCALE);
    let code = |words: &[&str]| double.call(words).0;
    assert_eq!(code(&["print", TARGET]), 113);
    assert_eq!(code(&["bootout", TARGET]), 3);
    assert_eq!(code(&["kickstart", "-k", TARGET]), 113);
    let path = plist(&double, "exec sleep 600", &[("RunAtLoad", true.into()), ("ExitTimeOut", 7.into())]);
    assert_eq!(code(&["disable", TARGET]), 0);
    assert_eq!(bootstrap(&double, &path).0, 119, "it is disabled");
    assert_eq!(code(&["enable", TARGET]), 0);
    assert_eq!(bootstrap(&double, &path), (0, String::new()));
    assert_eq!(bootstrap(&double, &path).0, 5, "it is loaded");
    let pid = eventually("a process", || double.pid(NAME));
    let (code, said) = double.call(&["print", TARGET]);
    for line in [format!("\tpid = {pid}\n").as_str(), "\tstate = running\n", "\texit timeout = 7\n", "(never exited)"] {
        assert!(code == 0 && said.contains(line), "{said}");
    }
    assert_eq!(double.call(&["bootout", TARGET]).0, 0);
    eventually("nobody is left", || (double.call(&["print", TARGET]).0 == 113).then_some(()));
    fs::remove_file(path).expect("the file is ours");
    assert_eq!(bootstrap(&double, &double.definitions().join("x.plist")).0, 5, "there is no such file");
}

#[test]
fn launchd_keeps_alive_at_most_every_throttle_and_a_kickstart_does_not_wait() {
    let double = Double::new(Kind::Launchd, SCALE);
    let path = plist(&double, "echo $$; exit 3", &[("KeepAlive", true.into())]);
    let begun = Instant::now();
    assert_eq!(bootstrap(&double, &path).0, 0);
    eventually("three runs", || (double.runs(NAME) == 3).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(2), "a second between each: {:?}", begun.elapsed());
    eventually("the end", || double.call(&["print", TARGET]).1.contains("last exit code = 3\n").then_some(()));
    assert_eq!(double.call(&["bootout", TARGET]).0, 0);
    eventually("nobody is left", || (double.call(&["print", TARGET]).0 == 113).then_some(()));

    let path = plist(&double, "exit 3", &[("KeepAlive", true.into()), ("ThrottleInterval", 100_000.into())]);
    assert_eq!(bootstrap(&double, &path).0, 0);
    eventually("the end", || double.call(&["print", TARGET]).1.contains("last exit code = 3\n").then_some(()));
    assert_eq!(double.call(&["kickstart", "-k", TARGET]).0, 0);
    eventually("one that does not wait for hours", || (double.runs(NAME) == 2).then_some(()));
}

#[test]
fn launchd_kills_what_does_not_end_in_time_with_all_that_it_started() {
    let double = Double::new(Kind::Launchd, SCALE);
    let script = "trap '' TERM; sleep 600 & echo $!; while :; do sleep 1; done";
    let path = plist(&double, script, &[("RunAtLoad", true.into()), ("ExitTimeOut", 1.into())]);
    assert_eq!(bootstrap(&double, &path).0, 0);
    let child = eventually("its child", || log(&double).lines().next().map(str::to_owned));
    let begun = Instant::now();
    assert_eq!(double.call(&["kickstart", "-k", TARGET]).0, 0);
    eventually("another process", || (double.runs(NAME) == 2).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(1), "it had its time: {:?}", begun.elapsed());
    assert_eq!(double.last_end(NAME), Some(-9));
    // One whom nobody has waited for yet is dead all the same.
    let state = || Command::new("ps").args(["-o", "stat=", "-p", &child]).output().expect("ps runs").stdout;
    eventually("its child is gone too", || matches!(state().first(), None | Some(b'Z')).then_some(()));
}

#[test]
fn launchd_tries_again_to_start_what_is_missing_and_runs_what_has_an_interval() {
    let double = Double::new(Kind::Launchd, SCALE);
    let program = double.root().join("program");
    let words = Value::Array(vec![program.display().to_string().into()]);
    let path = plist(&double, "", &[("KeepAlive", true.into()), ("ProgramArguments", words)]);
    assert_eq!(bootstrap(&double, &path).0, 0);
    eventually("the failure", || double.call(&["print", TARGET]).1.contains("78: EX_CONFIG").then_some(()));
    assert_eq!((double.pid(NAME), double.runs(NAME)), (None, 0));
    std::os::unix::fs::symlink("/bin/sh", &program).expect("the folder is ours");
    eventually("it is started", || (double.runs(NAME) >= 1).then_some(()));
    assert_eq!(double.call(&["bootout", TARGET]).0, 0);
    eventually("nobody is left", || (double.call(&["print", TARGET]).0 == 113).then_some(()));

    let path = plist(&double, "echo tick", &[("StartInterval", 10.into())]);
    assert_eq!(bootstrap(&double, &path).0, 0);
    eventually("two ticks", || (log(&double).matches("tick").count() >= 2).then_some(()));
}

#[test]
fn systemctl_starts_stops_and_lets_a_timer_start() {
    let double = Double::new(Kind::Systemd, SCALE);
    let unit = |name: &str, text: &str| fs::write(double.definitions().join(name), text).expect("the folder is ours");
    let call = |words: &[&str]| double.call(&[&["--user"], words].concat());
    let show = |unit: &str| call(&["show", "--property", "LoadState", unit]).1;
    assert!(show("x.service").contains("LoadState=not-found"));
    assert_eq!(call(&["start", "x.service"]).0, 5);
    let text = "[Service]\nExecStart=:\"/bin/sh\" -c \"exec sleep 600\"\nRestart=always\nRestartSec=10\n";
    unit("x.service", text);
    assert_eq!(call(&["enable", "--now", "x.service"]).0, 0);
    let first = eventually("a process", || double.pid("x.service"));
    assert!(show("x.service").contains(&format!("MainPID={first}\n")));
    assert!(show("x.service").contains("ActiveState=active\n"));
    assert_eq!(call(&["restart", "--no-block", "x.service"]).0, 0);
    let second = eventually("another", || double.pid("x.service").filter(|pid| *pid != first));
    crate::support::site::signal("KILL", second);
    eventually("a third", || double.pid("x.service").filter(|pid| *pid != second));
    assert_eq!(call(&["disable", "--now", "x.service"]).0, 0);
    assert_eq!(double.pid("x.service"), None, "it waited for the end");
    assert!(show("x.service").contains("ActiveState=inactive\n"), "its file is there, and nobody starts it");

    let log = double.root().join("log");
    unit("y.service", &format!("[Service]\nType=oneshot\nExecStart=:/bin/sh -c \"echo tick >> {}\"\n", log.display()));
    unit("y.timer", "[Timer]\nOnActiveSec=1\nOnUnitActiveSec=5\n");
    assert_eq!(call(&["start", "y.timer"]).0, 0);
    eventually("two ticks", || {
        let ticks = fs::read_to_string(&log).unwrap_or_default().matches("tick").count();
        (ticks >= 2).then_some(())
    });
}
