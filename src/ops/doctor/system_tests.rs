//! The checks that ask others: signatures, installed releases, agents, logins, the firewall, whole models. The programs of
//! the system are shells that answer as those do, to exactly the words that must be asked; files are real.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::*;
use crate::config::args::{ManifestAction, ManifestArgs, RootArgs};
use crate::ops::certs;
use crate::ops::doctor::system::Tool;
use crate::ops::installed::{self, Agent, Installed, Recorded, Release};
use crate::ops::manifest;
use crate::ops::supervisor::Service;
use crate::platform::child::{self, Ended};

/// Shell commands, by how the line that is asked begins. A line that nobody knows is answered by nobody.
pub(super) struct Shells(&'static [(&'static str, &'static str)]);

/// A system that has none of the programs.
pub(super) const NOBODY: Shells = Shells(&[]);

impl System for Shells {
    fn ask(&self, tool: Tool, words: &[&str]) -> Option<io::Result<Ended>> {
        let line = [&[tool.name()][..], words].concat().join(" ");
        let (_, script) = self.0.iter().find(|(asked, _)| line.starts_with(asked))?;
        Some(child::run(Command::new("/bin/sh").args(["-c", script]), b"", Duration::from_secs(30)))
    }
}

/// A supervisor that has loaded these services.
pub(super) struct Loaded(pub(super) &'static [&'static str]);

impl Supervisor for Loaded {
    fn name(&self) -> &'static str {
        "launchd"
    }

    fn server(&self) -> &'static str {
        "com.sanctum.mlx"
    }

    fn look(&self, service: &str) -> anyhow::Result<Option<Service>> {
        if self.0.contains(&"nobody answers") {
            bail!("no bus");
        }
        Ok(self.0.contains(&service).then(|| Service { pid: Some(7), ..Service::default() }))
    }

    fn restart(&self, _: &str) -> anyhow::Result<()> {
        bail!("the doctor changes nothing")
    }

    fn definitions(&self) -> anyhow::Result<PathBuf> {
        bail!("the doctor does not ask for it")
    }

    fn load(&self, _: &str, _: &Path) -> anyhow::Result<()> {
        bail!("the doctor changes nothing")
    }

    fn unload(&self, _: &str) -> anyhow::Result<()> {
        bail!("the doctor changes nothing")
    }
}

/// A home with one release in service, its program, and an agent with its definition.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let site = Self(folder);
        let (release, program) = (site.release(), site.release().join("bin/sanctum-mlx"));
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, "a program").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let sha256 = manifest::sha256(&program).unwrap();
        let file = Recorded { path: "bin/sanctum-mlx".into(), bytes: 9, modified_ns: 0, sha256 };
        Release::new("1", "a", vec![file.clone()]).write(&release).unwrap();
        symlink(&release, installed::current(site.home())).unwrap();
        fs::write(site.definition(), "a definition").unwrap();
        let definitions = vec![Recorded { path: site.definition(), ..file }];
        let mut installed = Installed::new(1, release);
        installed.agents = vec![Agent { name: "com.sanctum.mlx".to_owned(), definitions }];
        installed.write(site.home()).unwrap();
        site
    }

    fn home(&self) -> &Path {
        self.0.path()
    }

    fn release(&self) -> PathBuf {
        installed::releases(self.home()).join("1-a")
    }

    fn definition(&self) -> PathBuf {
        self.home().join("com.sanctum.mlx.plist")
    }

    fn program(&self) -> PathBuf {
        installed::program(self.home())
    }

    fn examine(&self, system: &dyn System, supervisor: &dyn Supervisor) -> Vec<Finding> {
        let flags = crate::config::args::Flags::default().with("home", self.home().to_str().unwrap());
        let flags = flags.with("port", "0").with("tls_port", "0");
        let lookup = |_: &str| Err(io::Error::other("no names here"));
        let sources = Sources { flags: &flags, variables: BTreeMap::new(), user_home: None, lookup: &lookup };
        examine(&sources, system, supervisor)
    }
}

fn of<'a>(check: &str, findings: &'a [Finding]) -> &'a Finding {
    findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("{check} was not looked at"))
}

fn check(finding: &Finding, grade: Grade, words: &str) {
    assert!(finding.grade == grade && finding.detail.contains(words), "wants {grade:?} with {words:?}: {finding:?}");
}

#[test]
fn an_installed_program_is_the_one_that_is_looked_at_also_when_the_settings_are_wrong() {
    let site = Site::new();
    let findings = site.examine(&NOBODY, &Loaded(&["com.sanctum.mlx"]));
    check(of("installation", &findings), Grade::Ok, "releases/1-a is in service");
    check(of("binary", &findings), Grade::Ok, "current/bin/sanctum-mlx, ");
    check(of("signature", &findings), Grade::Ok, "is the one in the install record");
    check(of("agents", &findings), Grade::Ok, "launchd has loaded com.sanctum.mlx, pid 7");
    fs::remove_file(site.release().join("bin/sanctum-mlx")).unwrap();
    fs::write(site.home().join("config.toml"), "rows = \"x\"").unwrap();
    let findings = site.examine(&NOBODY, &Loaded(&[]));
    check(of("binary", &findings), Grade::Fail, "No such file");
    check(of("agents", &findings), Grade::Fail, "launchd has not loaded com.sanctum.mlx");
    fs::write(site.home().join("install.json"), "torn").unwrap();
    check(of("installation", &site.examine(&NOBODY, &Loaded(&[]))), Grade::Fail, "install.json");
}

#[test]
fn a_changed_program_is_found_by_its_hash_where_code_is_not_signed() {
    let site = Site::new();
    let look = || release::signature(&site.program(), &NOBODY);
    check(&look(), Grade::Ok, "install record");
    fs::write(site.release().join("bin/sanctum-mlx"), "a prozram").unwrap();
    check(&look(), Grade::Fail, "recorded is");
    Release::new("1", "a", Vec::new()).write(&site.release()).unwrap();
    check(&look(), Grade::Fail, "does not know");
    fs::write(site.release().join("release.json"), "torn").unwrap();
    check(&look(), Grade::Fail, "release.json");
    fs::remove_file(site.release().join("release.json")).unwrap();
    check(&look(), Grade::NotApplicable, "this is not installed");
}

#[test]
fn codesign_is_asked_strictly_where_there_is_one() {
    const FINE: Shells = Shells(&[("codesign --verify --strict /bin/sh", "exit 0")]);
    const WRONG: Shells = Shells(&[("codesign", "echo '/bin/sh: code object is not signed at all' >&2; exit 1")]);
    check(&release::signature(Path::new("/bin/sh"), &FINE), Grade::Ok, "as it was signed");
    check(&release::signature(Path::new("/bin/sh"), &WRONG), Grade::Fail, "not signed at all");
}

#[test]
fn the_metallib_is_looked_for_beside_the_program_that_is_really_executed() {
    let site = Site::new();
    let metallib = site.release().join("bin/mlx.metallib");
    check(&release::metallib(&site.program()), Grade::Fail, "mlx.metallib");
    fs::write(&metallib, "").unwrap();
    check(&release::metallib(&site.program()), Grade::Fail, "is empty");
    fs::write(&metallib, "MTLB").unwrap();
    check(&release::metallib(&site.program()), Grade::Ok, "releases/1-a/bin/mlx.metallib");
    let built = site.home().join("target/release/sanctum-mlx");
    check(&release::metallib(&built), Grade::Warn, "its own build folder");
}

#[test]
fn an_agent_without_its_file_or_its_supervisor_is_told() {
    let site = Site::new();
    let installed = Installed::of(site.home()).unwrap();
    let look = |supervisor: &dyn Supervisor| agents::loaded(installed.as_ref(), supervisor).remove(0);
    check(&look(&Loaded(&["nobody answers"])), Grade::Warn, "launchd cannot be asked about com.sanctum.mlx: no bus");
    fs::remove_file(site.definition()).unwrap();
    check(&look(&Loaded(&["com.sanctum.mlx"])), Grade::Fail, "com.sanctum.mlx.plist is gone");
    check(&agents::loaded(None, &Loaded(&[]))[0], Grade::NotApplicable, "none are installed");
}

#[test]
fn whether_anything_runs_before_a_login_is_asked_of_whoever_knows() {
    const ASKED: &str = "defaults read /Library/Preferences/com.apple.loginwindow autoLoginUser";
    const SOMEBODY: Shells = Shells(&[(ASKED, "echo ada")]);
    const NO_ONE: Shells = Shells(&[(ASKED, "echo 'The domain/default pair does not exist' >&2; exit 1")]);
    const LINGERS: Shells = Shells(&[("loginctl show-user ", "echo Linger=yes")]);
    const LEAVES: Shells = Shells(&[("loginctl show-user ", "echo Linger=no")]);
    const UNKNOWN: Shells = Shells(&[("loginctl", "echo 'User ID 7 is not logged in or lingering' >&2; exit 1")]);
    check(&agents::login(&SOMEBODY), Grade::Ok, "ada logs in by itself");
    check(&agents::login(&NO_ONE), Grade::Warn, "agents do not run before a login");
    check(&agents::login(&LINGERS), Grade::Ok, "lingering is on");
    for system in [&LEAVES, &UNKNOWN] {
        check(&agents::login(system), Grade::Warn, "lingering is off");
    }
    check(&agents::login(&NOBODY), Grade::NotApplicable, "neither macOS nor systemd");
}

#[test]
fn the_firewall_matters_only_to_listeners_that_others_should_reach() {
    const OFF: Shells = Shells(&[("socketfilterfw --getglobalstate", "echo 'Firewall is disabled. (State = 0)'")]);
    const CLOSED: Shells = Shells(&[("socketfilterfw --getglobalstate", "echo 'Firewall is enabled. (State = 2)'")]);
    const ON: (&str, &str) = ("socketfilterfw --getglobalstate", "echo 'Firewall is enabled. (State = 1)'");
    const ASKED: &str = "socketfilterfw --getappblocked /x y";
    const LETS: Shells = Shells(&[ON, (ASKED, "echo 'Incoming connection to the application is permitted'")]);
    const BLOCKS: Shells = Shells(&[ON, (ASKED, "echo 'Incoming connection to the application is blocked'")]);
    let look = |exposure, system: &dyn System| firewall::examine(Path::new("/x y"), exposure, system);
    check(&look(Exposure::Network, &NOBODY), Grade::NotApplicable, "macOS");
    check(&look(Exposure::Network, &OFF), Grade::Ok, "is off");
    check(&look(Exposure::Network, &CLOSED), Grade::Warn, "every connection");
    check(&look(Exposure::Network, &LETS), Grade::Ok, "permitted");
    check(&look(Exposure::Network, &BLOCKS), Grade::Warn, "is blocked");
    assert!(look(Exposure::Network, &BLOCKS).remedy.contains("--unblockapp '/x y'"));
    for system in [&CLOSED, &BLOCKS] {
        check(&look(Exposure::Loopback, system), Grade::Ok, "loopback");
    }
    check(&look(Exposure::Network, &Shells(&[("socketfilterfw", "echo what")])), Grade::Warn, "what");
}

#[test]
fn the_recommended_memory_is_what_the_owner_set_or_metals_share() {
    const SET: Shells = Shells(&[("sysctl -n iogpu.wired_limit_mb", "echo 12000")]);
    const UNSET: Shells = Shells(&[("sysctl -n iogpu.wired_limit_mb", "echo 0")]);
    assert_eq!(machine::recommended(48 << 30, &SET), 12_000 << 20);
    assert_eq!(machine::recommended(48 << 30, &UNSET), 36 << 30);
    assert_eq!(machine::recommended(24 << 30, &UNSET), 16 << 30);
    assert_eq!(machine::recommended(24 << 30, &NOBODY), 18 << 30);
}

#[test]
fn a_certificate_of_the_future_means_a_clock_of_the_past() {
    let site = Site::new();
    let path = certs::ensure(site.home(), &[]).unwrap().paths.server_certificate();
    let facts = certs::facts(&fs::read_to_string(&path).unwrap()).unwrap();
    let look = |now| files::window(&path, Ok((facts.not_before, facts.not_after)), now, true);
    check(&look(facts.not_before - 3_600), Grade::Fail, "not valid before 2 hours from now");
    check(&look(facts.not_before), Grade::Ok, "days");
    check(&look(facts.not_after), Grade::Warn, "has expired");
}

#[test]
fn logs_that_cannot_be_written_are_told_and_looking_leaves_nothing() {
    let site = Site::new();
    let logs = site.home().join("logs");
    check(&files::logs(site.home()), Grade::Ok, "will be made");
    assert!(!logs.exists());
    fs::write(&logs, "").unwrap();
    check(&files::logs(site.home()), Grade::Warn, "cannot be written to");
    fs::remove_file(&logs).unwrap();
    symlink("/nowhere/at/all", &logs).unwrap();
    check(&files::logs(site.home()), Grade::Warn, "cannot be written to");
    fs::remove_file(&logs).unwrap();
    fs::create_dir(&logs).unwrap();
    check(&files::logs(site.home()), Grade::Ok, "is writable");
    assert_eq!(fs::read_dir(&logs).unwrap().count(), 0);
}

/// A safetensors file with one tensor of four bytes.
fn safetensors() -> Vec<u8> {
    let header =
        json!({"__metadata__": {"format": "mlx"}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}});
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat()
}

#[test]
fn a_model_that_was_cut_off_or_lacks_a_file_is_found_before_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path();
    let (first, second) = (model.join("model-1.safetensors"), model.join("model-2.safetensors"));
    let look = || weights::whole(model, &files::weights(model));
    fs::write(&first, safetensors()).unwrap();
    check(&look(), Grade::Ok, "1 files are as long");
    let index = json!({"weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}});
    fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    check(&look(), Grade::Fail, "names model-2.safetensors, which is missing");
    let whole = safetensors();
    for (length, words) in [(0, "too short"), (9, "no header"), (whole.len() - 1, "was it cut off?")] {
        fs::write(&second, &whole[..length]).unwrap();
        check(&look(), Grade::Fail, words);
    }
    fs::write(&second, [&u64::MAX.to_le_bytes()[..], b"{}"].concat()).unwrap();
    check(&look(), Grade::Fail, "no header");
    fs::write(&second, whole).unwrap();
    check(&look(), Grade::Ok, "2 files are as long");
    check(&weights::whole(model, &[]), Grade::NotApplicable, "GGUF");
    fs::write(model.join("model.safetensors.index.json"), "torn").unwrap();
    check(&look(), Grade::Fail, "index.json");
}

#[test]
fn i4_a_manifest_is_demanded_signed_and_names_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let (model, key) = (home.path().join("m"), home.path().join("keys/manifest.pub"));
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), "{}").unwrap();
    let look = |demanded: Option<&Path>| weights::signed(home.path(), &model, demanded);
    let run = |action| manifest::run(&ManifestArgs { action, root: RootArgs { home: Some(home.path().to_owned()) } });
    check(&look(None), Grade::NotApplicable, "there is none");
    check(&look(Some(&key)), Grade::Fail, "has none, and --manifest demands it");
    run(ManifestAction::Keygen).unwrap();
    run(ManifestAction::Sign { model: model.clone(), key: None }).unwrap();
    check(&look(Some(&key)), Grade::Ok, "names the 1 files");
    fs::write(model.join("alien.bin"), "").unwrap();
    check(&look(Some(&key)), Grade::Fail, "alien.bin is not in the manifest");
    check(&look(None), Grade::Warn, "alien.bin is not in the manifest");
    fs::write(model.join("manifest.sha256.sig"), "torn").unwrap();
    check(&look(Some(&key)), Grade::Fail, "manifest.sha256.sig");
}

#[test]
fn what_cannot_be_looked_at_is_not_told_as_fine() {
    let finding = Finding::not_applicable("metallib", "the CPU backend of this system needs none");
    let told = serde_json::to_value(&finding).unwrap();
    let detail = "the CPU backend of this system needs none";
    assert_eq!(told, json!({"check": "metallib", "grade": "not_applicable", "detail": detail, "remedy": ""}));
    assert!(table(&[finding]).starts_with("n/a   metallib  the CPU backend"));
}
