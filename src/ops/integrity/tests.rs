//! Each of the eight checks on real files and, where it is about one, a real process; what an installation writes down is
//! written by hand here.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Command};

use super::*;
use crate::ops::certs;
use crate::ops::installed::{Agent, Recorded, Sized, modified_ns};
use crate::ops::manifest::{hash, lines};

/// An installation of a program that sleeps, as its supervisor sees it.
struct Site {
    folder: tempfile::TempDir,
    facts: Facts,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_owned();
        let release = installed::releases(&home).join("1.0.0-abc");
        for part in ["bin", "lib"] {
            fs::create_dir_all(release.join(part)).unwrap();
        }
        fs::copy("/bin/sleep", release.join("bin/sanctum-mlx")).unwrap();
        fs::write(release.join("lib/libmlx.so"), "library").unwrap();
        let record = Release::new(
            "1.0.0",
            "abc",
            ["bin/sanctum-mlx", "lib/libmlx.so"].map(|name| recorded(&release, name)).to_vec(),
        );
        record.write(&release).unwrap();
        symlink(&release, installed::current(&home)).unwrap();
        let program = installed::program(&home);
        let definition = home.join("server.service");
        fs::write(&definition, format!("[Service]\nExecStart={} serve\nTimeoutStopSec=40\n", program.display()))
            .unwrap();
        let model = home.join("model.gguf");
        fs::write(&model, [0; 100]).unwrap();
        certs::ensure(&home, &[]).unwrap();

        let mut record = Installed::new(1, release);
        let defined = Recorded { path: definition.clone(), ..recorded(&home, "server.service") };
        record.agents = vec![Agent { name: "server".to_owned(), definitions: vec![defined] }];
        record.model = vec![Sized { path: model, bytes: 100 }];
        record.drain_seconds = 25;
        record.write(&home).unwrap();
        let service = Service { program: Some(program), definition: Some(definition), ..Service::default() };
        let facts = Facts::of(&home, &Supervised(Some(service)), "server").unwrap();
        Self { folder, facts }
    }

    fn release(&self) -> PathBuf {
        fs::canonicalize(installed::current(self.folder.path())).unwrap()
    }

    /// The events of a tick, by name, besides the one that all is well.
    fn failed(&self) -> Vec<&'static str> {
        let (health, events) = judge(&self.facts);
        let names: Vec<&str> = events.iter().map(|event| event.kind.name).filter(|name| *name != OK.name).collect();
        assert_eq!(health == Health::Healthy, names.is_empty(), "{events:?}");
        names
    }

    /// Starts the program and leaves its number with the supervisor.
    fn start(&mut self) -> Child {
        let child = Command::new(installed::program(self.folder.path())).arg("60").spawn().unwrap();
        self.service().pid = Some(child.id());
        child
    }

    fn service(&mut self) -> &mut Service {
        self.facts.service.as_mut().unwrap()
    }
}

/// A supervisor that says one thing.
struct Supervised(Option<Service>);

impl Supervisor for Supervised {
    fn name(&self) -> &'static str {
        "the double"
    }

    fn server(&self) -> &'static str {
        "server"
    }

    fn look(&self, _: &str) -> anyhow::Result<Option<Service>> {
        Ok(self.0.clone())
    }

    fn restart(&self, _: &str) -> anyhow::Result<()> {
        unreachable!("integrity restarts nothing")
    }

    fn definitions(&self) -> anyhow::Result<PathBuf> {
        unreachable!("integrity defines nothing")
    }

    fn load(&self, _: &str, _: &Path) -> anyhow::Result<()> {
        unreachable!("integrity loads nothing")
    }

    fn unload(&self, _: &str) -> anyhow::Result<()> {
        unreachable!("integrity unloads nothing")
    }
}

fn recorded(folder: &Path, name: &str) -> Recorded {
    let path = folder.join(name);
    let facts = fs::metadata(&path).unwrap();
    let (hashes, _) = hash::all(&[path], &mut hash::Cache::default()).unwrap();
    Recorded { path: name.into(), bytes: facts.len(), modified_ns: modified_ns(&facts), sha256: lines::hex(&hashes[0]) }
}

#[test]
fn i1_a_sound_installation_fails_nothing_and_a_bare_home_says_that_it_is_none() {
    let mut site = Site::new();
    assert_eq!(site.failed(), Vec::<&str>::new());
    let mut child = site.start();
    assert_eq!(site.failed(), Vec::<&str>::new());
    child.kill().unwrap();
    child.wait().unwrap();
    let bare = tempfile::tempdir().unwrap();
    let facts = Facts::of(bare.path(), &Supervised(None), "server").unwrap();
    let names: Vec<&str> = judge(&facts).1.iter().map(|event| event.kind.name).collect();
    assert_eq!(names, ["integrity_definition", "integrity_not_installed"], "nobody would start it");
}

#[test]
fn i1_a_program_that_is_gone_or_no_program_or_a_builds_is_told_while_the_server_still_runs() {
    let mut site = Site::new();
    let mut child = site.start();
    let program = site.release().join("bin/sanctum-mlx");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(site.failed(), ["integrity_program"]);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mark = site.release().join("CACHEDIR.TAG");
    fs::write(&mark, "").unwrap();
    assert_eq!(site.failed(), ["integrity_program"]);
    fs::remove_file(&mark).unwrap();
    assert_eq!(site.failed(), Vec::<&str>::new());
    // What the build clean-up of 2026-04-19 did.
    fs::remove_file(&program).unwrap();
    assert_eq!(site.failed(), ["integrity_program", "integrity_release"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn i2_a_program_that_was_changed_in_place_is_not_the_one_that_was_installed() {
    let site = Site::new();
    let program = site.release().join("bin/sanctum-mlx");
    let time = fs::metadata(&program).unwrap().modified().unwrap();
    let mut bytes = fs::read(&program).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&program, bytes).unwrap();
    File::options().write(true).open(&program).unwrap().set_modified(time).unwrap();
    assert_eq!(site.failed(), ["integrity_signature"], "its size and time are as they were");
}

#[test]
fn i1_a_library_that_is_missing_cut_or_written_to_is_told() {
    let site = Site::new();
    let library = site.release().join("lib/libmlx.so");
    let time = fs::metadata(&library).unwrap().modified().unwrap();
    fs::write(&library, "library").unwrap();
    assert_eq!(site.failed(), ["integrity_release"], "another time");
    File::options().write(true).open(&library).unwrap().set_modified(time).unwrap();
    assert_eq!(site.failed(), Vec::<&str>::new());
    fs::write(&library, "lib").unwrap();
    assert_eq!(site.failed(), ["integrity_release"]);
    fs::remove_file(&library).unwrap();
    assert_eq!(site.failed(), ["integrity_release"]);
}

#[test]
fn i1_a_process_whose_file_was_replaced_is_stale() {
    let mut site = Site::new();
    let mut child = site.start();
    let program = site.release().join("bin/sanctum-mlx");
    let kept = site.release().join("kept");
    let time = fs::metadata(&program).unwrap().modified().unwrap();
    fs::rename(&program, &kept).unwrap();
    fs::copy(&kept, &program).unwrap();
    File::options().write(true).open(&program).unwrap().set_modified(time).unwrap();
    assert_eq!(site.failed(), ["integrity_running"], "the same bytes, and yet another file");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn i1_a_definition_that_is_gone_torn_hurried_or_of_another_program_is_told() {
    let mut site = Site::new();
    let path = site.service().definition.clone().unwrap();
    let program = installed::program(site.folder.path());
    for text in [
        "[Service]\nTimeoutStopSec=40\n".to_owned(),
        "[Service]\nExecStart=/bin/sleep\nTimeoutStopSec=40\n".to_owned(),
        format!("[Service]\nExecStart={}\nTimeoutStopSec=27\n", program.display()),
        format!("[Service]\nExecStart={}\n", program.display()),
    ] {
        fs::write(&path, &text).unwrap();
        assert_eq!(site.failed(), ["integrity_definition"], "{text}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(site.failed(), ["integrity_definition"]);
}

#[test]
fn i1_a_server_that_nobody_would_start_again_is_an_orphan() {
    let mut site = Site::new();
    let mut child = site.start();
    let state = serde_json::json!({"pid": child.id()});
    fs::create_dir_all(site.folder.path().join("state")).unwrap();
    fs::write(site.folder.path().join("state/serve.json"), state.to_string()).unwrap();
    site.facts = Facts::of(site.folder.path(), &Supervised(None), "server").unwrap();
    let (_, events) = judge(&site.facts);
    assert!(events.iter().any(|event| event.detail.contains("serves, yet server is not loaded")), "{events:?}");
    assert_eq!(site.failed(), ["integrity_definition"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn i1_a_model_that_was_cut_or_removed_is_told_without_reading_it() {
    let site = Site::new();
    let model = site.folder.path().join("model.gguf");
    fs::write(&model, [0; 99]).unwrap();
    assert_eq!(site.failed(), ["integrity_model"]);
    fs::remove_file(&model).unwrap();
    assert_eq!(site.failed(), ["integrity_model"]);
}

#[test]
fn i1_a_key_that_others_may_read_a_missing_certificate_and_a_full_disk_are_told() {
    let mut site = Site::new();
    let paths = certs::Paths::of(site.folder.path());
    fs::set_permissions(paths.server_key(), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(site.failed(), ["integrity_certificates"]);
    fs::set_permissions(paths.server_key(), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(paths.server_certificate()).unwrap();
    assert_eq!(site.failed(), ["integrity_certificates"]);
    certs::ensure(site.folder.path(), &[]).unwrap();
    assert_eq!(site.failed(), Vec::<&str>::new());
    site.facts.disk_bytes_min = u64::MAX;
    assert_eq!(site.failed(), ["integrity_disk"]);
    site.facts.disk_bytes_min = 0;
    fs::remove_dir_all(site.folder.path().join("logs")).unwrap();
    fs::write(site.folder.path().join("logs"), "").unwrap();
    assert_eq!(site.failed(), ["integrity_disk"], "a log folder that is a file");
}
