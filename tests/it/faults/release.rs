//! What the next start would not find, told while the server still serves: one process for all of it, because nothing of
//! this may disturb it.

use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::channel::{Channel, Fault, Row};
use super::place::{INTEGRITY, Place, Unprivileged};
use crate::support::eventually;

const PROGRAM: &str = "bin/sanctum-mlx";
const LIBRARY: &str = "lib/libmlx.so";
/// The server's own look at its executable; what it may take is ours to say.
const ITSELF: Channel = Channel { name: "server", every: Duration::from_secs(10), limit: Duration::from_secs(2) };

/// All of them, one after the other.
pub fn faults(place: &Place) -> Vec<Row> {
    let pid = place.site.pid();
    let rows = vec![
        itself(place),
        deleted(place),
        replaced(place),
        changed(place),
        library(place),
        gone_unit(place),
        expired(
            place,
            "certificate expired",
            "one that ended in 2021 in the place of the server's",
            "certs/server.crt",
        ),
        expired(place, "watchers' certificate expired", "the same in the place of theirs", "certs/clients/default.crt"),
        readable_key(place),
        truncated(place),
        cannot_grow(place),
        nearly_full(place),
        unwritable_logs(place),
    ];
    assert_eq!((place.site.models(), place.site.pid()), (Some(200), pid), "what runs serves on");
    rows
}

fn integrity(fault: &'static str, how: &'static str, events: &'static [&'static str]) -> Fault {
    Fault::new(INTEGRITY, fault, how, events)
}

fn itself(place: &Place) -> Row {
    let fault = Fault::new(ITSELF, "binary deleted, told by itself", "unlink of the file that runs", &[]);
    let intact = || place.site.health()["binary_integrity"] == true;
    assert!(intact());
    fs::remove_file(&place.names(PROGRAM)[0]).expect("ours");
    let since = Instant::now();
    eventually("its own alarm", || (!intact()).then_some(()));
    let seen = Some((since.elapsed(), "binary_integrity 0".to_owned()));
    place.put_back(PROGRAM);
    eventually("it is well again", || intact().then_some(()));
    Row { fault, seen }
}

fn deleted(place: &Place) -> Row {
    let fault = integrity("binary deleted", "unlink of what is executed", &["integrity_program"]);
    let inject = || fs::remove_file(&place.names(PROGRAM)[0]).expect("ours");
    fault.tell(|| place.tick(INTEGRITY), inject, |()| place.put_back(PROGRAM))
}

/// Another file with this last byte, of the same time, in the place of one.
fn exchange(path: &Path, last: impl Fn(u8) -> u8) {
    let beside = path.with_extension("new");
    let mut bytes = fs::read(path).expect("ours");
    let end = bytes.last_mut().expect("it is not empty");
    *end = last(*end);
    fs::write(&beside, bytes).expect("ours");
    let facts = fs::metadata(path).expect("ours");
    fs::set_permissions(&beside, facts.permissions()).expect("ours");
    let time = facts.modified().expect("it has one");
    File::options().write(true).open(&beside).and_then(|file| file.set_modified(time)).expect("ours");
    fs::rename(beside, path).expect("ours");
}

fn replaced(place: &Place) -> Row {
    let fault = integrity("binary replaced", "rename of an equal file over it", &["integrity_running"]);
    let inject = || exchange(&place.names(PROGRAM)[0], |byte| byte);
    fault.tell(|| place.tick(INTEGRITY), inject, |()| place.put_back(PROGRAM))
}

fn changed(place: &Place) -> Row {
    let how = "a bit of it flipped, size and time kept (codesign on a Mac)";
    let fault = integrity("binary unsigned: not as installed", how, &["integrity_signature"]);
    let inject = || exchange(&place.names(PROGRAM)[0], |byte| byte ^ 1);
    fault.tell(|| place.tick(INTEGRITY), inject, |()| place.put_back(PROGRAM))
}

fn library(place: &Place) -> Row {
    let fault = integrity("release library missing", "unlink of lib/libmlx.so", &["integrity_release"]);
    let inject = || fs::remove_file(&place.names(LIBRARY)[0]).expect("ours");
    fault.tell(|| place.tick(INTEGRITY), inject, |()| place.put_back(LIBRARY))
}

/// Renames a file away; where it is now.
fn aside(path: &Path) -> PathBuf {
    let aside = path.with_extension("aside");
    fs::rename(path, &aside).expect("ours");
    aside
}

fn gone_unit(place: &Place) -> Row {
    let fault = integrity("unit (plist) gone", "rename of the definition away", &["integrity_definition"]);
    let unit = place.site.double.definitions().join(place.site.server());
    fault.tell(|| place.tick(INTEGRITY), || aside(&unit), |aside| fs::rename(aside, &unit).expect("ours"))
}

fn expired(place: &Place, name: &'static str, how: &'static str, file: &str) -> Row {
    let fault = integrity(name, how, &["integrity_certificates"]);
    let certificate = place.home().join(file);
    let inject = || {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let signed = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
        let aside = aside(&certificate);
        fs::write(&certificate, signed.pem()).expect("ours");
        aside
    };
    fault.tell(|| place.tick(INTEGRITY), inject, |aside| fs::rename(aside, &certificate).expect("ours"))
}

fn readable_key(place: &Place) -> Row {
    let fault = integrity("key that others may read", "chmod 644 of the server's key", &["integrity_certificates"]);
    let key = place.home().join("certs/server.key");
    let mode = |mode| fs::set_permissions(&key, Permissions::from_mode(mode)).expect("ours");
    fault.tell(|| place.tick(INTEGRITY), || mode(0o644), |()| mode(0o600))
}

fn truncated(place: &Place) -> Row {
    let fault = integrity("model file truncated", "half of it renamed over it", &["integrity_model"]);
    let inject = || {
        let bytes = fs::read(place.model()).expect("ours");
        // Not in place: pages that the server may have mapped would be gone.
        let aside = aside(&place.model());
        fs::write(place.model(), &bytes[..bytes.len() / 2]).expect("ours");
        aside
    };
    fault.tell(|| place.tick(INTEGRITY), inject, |aside| fs::rename(aside, place.model()).expect("ours"))
}

fn cannot_grow(place: &Place) -> Row {
    let how = "RLIMIT_FSIZE 0: each write fails (a full tmpfs needs root)";
    let fault = integrity("disk full", how, &["integrity_disk"]);
    let full = Cell::new(false);
    let tick = || {
        let tick = place.tick(INTEGRITY);
        if !full.get() {
            return tick;
        }
        let mut command = Command::new("bash");
        command.args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]);
        command.arg(tick.get_program()).args(tick.get_args());
        command.envs(tick.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    };
    fault.tell(tick, || full.set(true), |()| full.set(false))
}

fn nearly_full(place: &Place) -> Row {
    let fault = integrity("disk nearly full", "a floor above what is free", &["integrity_disk"]);
    let floor = Cell::new("1");
    fault.tell(|| place.integrity(floor.get()), || floor.set("1000000000"), |()| ())
}

fn unwritable_logs(place: &Place) -> Row {
    let how = "mode 500, looked at by `nobody` with a home of its own";
    let fault = integrity("log folder unwritable", how, &["integrity_disk"]);
    let own = Unprivileged::beside(place);
    let mode = |mode| fs::set_permissions(own.logs(), Permissions::from_mode(mode)).expect("ours");
    fault.tell(|| own.integrity(), || mode(0o500), |()| mode(0o700))
}
