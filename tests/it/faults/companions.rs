//! Who would start the server again, and who watches: a service and watchers that nobody starts any more, and a watcher
//! that is loaded and does not run.

use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use super::channel::{Fault, Row, errors};
use super::place::{DRIFT, GUARDIAN, INTEGRITY, Place};
use crate::support::eventually;

const COMPANIONS: [&str; 5] = ["guardian", "canary", "integrity", "drift", "parity-smoke"];
/// Cadences after which the silence of a watcher is told.
const STALE: Duration = Duration::from_millis(2_500);

/// Those whose fault is nobody else's.
pub fn faults(place: &Place) -> Vec<Row> {
    vec![unloaded_server(place), silent(place)]
}

fn timers(place: &Place, word: &str) {
    COMPANIONS.iter().for_each(|name| place.systemctl(&[word, &format!("sanctum-mlx-{name}.timer")]));
}

/// Loads them, and waits until each has ticked once.
pub fn load(place: &Place) {
    timers(place, "start");
    for name in COMPANIONS {
        let service = format!("sanctum-mlx-{name}.service");
        eventually("its first tick", || place.site.double.last_end(&service));
    }
}

/// Companions loaded as an installation does, and then not any more; drift's next tick is a while away.
pub fn unloaded<'scope>(place: &'scope Place, scope: &'scope Scope<'scope, '_>) -> ScopedJoinHandle<'scope, Row> {
    load(place);
    let how = "systemctl stop of the five timers";
    let fault = Fault::new(DRIFT, "companions unloaded", how, &["drift_unloaded"]);
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let row = scope.spawn(move || {
        let inject = || {
            timers(place, "stop");
            // The others may go on as soon as nothing ticks by itself.
            sender.send(()).expect("they wait");
        };
        fault.tell(|| place.tick(DRIFT), inject, |()| ())
    });
    receiver.recv().expect("the fault is injected");
    row
}

fn unloaded_server(place: &Place) -> Row {
    let how = "systemctl stop: loaded by nobody, so started by nobody";
    let fault = Fault::new(INTEGRITY, "agent unloaded", how, &["integrity_definition"]);
    let stop = || place.systemctl(&["stop", place.site.server()]);
    fault.tell(|| place.tick(INTEGRITY), stop, |()| place.start())
}

fn silent(place: &Place) -> Row {
    let fault = Fault {
        patience: STALE,
        ..Fault::new(
            INTEGRITY,
            "a companion that ticks no more",
            "a guardian of every second, not run",
            &["companion_stale"],
        )
    };
    let guardian = |every: &str| {
        let mut command = place.tick(GUARDIAN);
        command.args(["--every-seconds", every]);
        assert_eq!(errors(command), Vec::<String>::new());
    };
    guardian("1");
    fault.tell(|| place.tick(INTEGRITY), || (), |()| guardian("60"))
}

/// Nobody else may tick meanwhile: all of them read it.
pub fn torn_plan(place: &Place) -> Row {
    let fault = Fault::new(INTEGRITY, "watch.toml torn", "a key that nobody knows", &["integrity_cannot_run"]);
    let plan = place.home().join("watch.toml");
    let text = std::fs::read_to_string(&plan).expect("ours");
    let write = |text: &str| std::fs::write(&plan, text).expect("ours");
    fault.tell(|| place.tick(INTEGRITY), || write("[canary]\nexpcted = \"4\"\n"), |()| write(&text))
}
