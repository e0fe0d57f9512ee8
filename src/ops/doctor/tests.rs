//! The doctor on machines made for it: real folders, real certificates, real ports.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use time::OffsetDateTime;
use time::macros::datetime;

use super::*;
use crate::config::args::Flags;
use crate::ops::certs;

/// The findings for a root with these flags.
fn findings(home: &Path, flags: Flags) -> Vec<Finding> {
    let flags = flags.with("home", home.to_str().unwrap()).with("port", "0").with("tls_port", "0");
    let lookup = |_: &str| Err(io::Error::other("no names here"));
    let sources = Sources { flags: &flags, variables: BTreeMap::new(), user_home: None, lookup: &lookup };
    examine(&sources, &system_tests::NOBODY, &system_tests::Loaded(&[]))
}

fn root() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    home
}

fn with_model(home: &Path) -> &Path {
    fs::create_dir_all(home.join("models/default")).unwrap();
    fs::write(home.join("models/default/m.gguf"), "GGUF").unwrap();
    home
}

fn failures(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.grade == Grade::Fail).collect()
}

#[test]
fn a_machine_in_order_has_no_failure_and_everything_is_looked_at() {
    let home = root();
    certs::ensure(home.path(), &[]).unwrap();
    let findings = findings(with_model(home.path()), Flags::default());
    assert_eq!(failures(&findings), Vec::<&Finding>::new());
    let checks = "installation, binary, signature, metallib, configuration, model, model files, manifest, home, logs, \
                  certificates, keys, disk, memory, open files, clock, firewall, agents, login";
    for check in checks.split(", ") {
        assert!(findings.iter().any(|finding| finding.check == check), "{check} was not looked at");
    }
    let text = table(&findings);
    assert!(text.ends_with("warnings\n") && text.contains("the next start will work: 0 failures"), "{text}");
}

#[test]
fn every_failure_has_a_remedy_and_none_hides_another() {
    let home = root();
    let paths = certs::ensure(home.path(), &[]).unwrap().paths;
    fs::set_permissions(paths.server_key(), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(paths.revocations(), "torn").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let findings = findings(home.path(), Flags::default().with("admin_port", &port));
    let failed: Vec<&str> = failures(&findings).iter().map(|finding| finding.check).collect();
    assert_eq!(failed, ["model", "certificates", "keys", "port"], "{findings:#?}");
    for finding in &findings {
        let nothing_to_do = matches!(finding.grade, Grade::Ok | Grade::NotApplicable);
        assert_eq!(finding.remedy.is_empty(), nothing_to_do, "{finding:?}");
    }
    assert!(table(&findings).contains("the next start will fail: 4 failures"));
}

#[test]
fn every_mistake_of_the_configuration_is_a_finding() {
    let home = root();
    let findings = findings(home.path(), Flags::default().with("rows", "x").with("drain_seconds", "x"));
    let failed = failures(&findings);
    assert!(failed.len() == 2 && failed.iter().all(|finding| finding.check == "configuration"), "{failed:?}");
    assert!(
        failed[0].detail.contains("flag --drain-seconds") && failed[0].remedy.contains("wants seconds"),
        "{failed:?}"
    );
}

#[test]
fn a_taken_port_names_its_owner_and_our_own_server_is_no_failure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let us = std::process::id();
    let other = ports::look(address, None);
    assert!(other.grade == Grade::Fail && other.detail.contains(&format!("pid {us}")), "{other:?}");
    assert_eq!(ports::look(address, Some(us)).grade, Grade::Ok);
    drop(taken);
    assert_eq!(ports::look(address, None).grade, Grade::Ok);
    assert_eq!(ports::look("203.0.113.7:1".parse().unwrap(), None).grade, Grade::Warn);
}

#[test]
#[cfg(target_os = "linux")]
fn the_kernels_table_is_read_by_port_and_state() {
    let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                 0: 0100007F:0539 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0        0 777 1\n\
                 1: 0100007F:0539 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0        0 778 1\n\
                 2: 0100007F:053A 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0        0 779 1\n";
    assert_eq!(ports::listening_inodes(table, 1337), ["777"]);
    assert_eq!(ports::listening_inodes("torn\n\n1 2", 1337), Vec::<String>::new());
}

#[test]
fn models_are_told_apart_by_what_is_on_the_disk() {
    let home = root();
    let folder = home.path().join("m");
    fs::create_dir(&folder).unwrap();
    let grade = |name: &Path| files::model(Some(name.to_str().unwrap()), home.path()).0.grade;
    assert_eq!(grade(&folder), Grade::Fail);
    fs::write(folder.join("model.safetensors"), "x").unwrap();
    assert_eq!(grade(&folder), Grade::Fail, "weights without a config");
    fs::write(folder.join("config.json"), "{}").unwrap();
    assert_eq!(grade(&folder), Grade::Ok);
    assert_eq!(grade(Path::new("owner/name")), Grade::Warn);
    assert_eq!(grade(Path::new("./nowhere")), Grade::Fail);
    assert_eq!(grade(Path::new("nowhere.gguf")), Grade::Fail);
}

#[test]
fn too_little_memory_and_a_clock_in_the_past_are_failures() {
    let memory = |model_gib: u64, budget_gib: u64| {
        let memory = machine::Memory { machine_bytes: 16 << 30, budget_bytes: budget_gib << 30 };
        machine::memory(model_gib << 30, memory).grade
    };
    assert_eq!(memory(16, 16), Grade::Fail, "more than the machine has");
    assert_eq!(memory(11, 10), Grade::Fail, "more than the model may have");
    assert_eq!(memory(8, 10), Grade::Warn, "no room beside it");
    assert_eq!(memory(6, 10), Grade::Ok);
    assert_eq!(memory(0, 10), Grade::NotApplicable, "nothing is known of the model");
    assert_eq!(machine::clock(datetime!(1970-01-02 00:00 UTC)).grade, Grade::Fail);
    assert_eq!(machine::clock(datetime!(2106-02-07 00:00 UTC)).grade, Grade::Fail);
    assert_eq!(machine::clock(OffsetDateTime::now_utc()).grade, Grade::Ok);
}
