//! What `serve` refuses before it binds anything: one line that names the file or the setting, exit 78, at once (L12,
//! T8, H12, E9).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::models::{Damage, Random, tiny_gguf};
use crate::support::server::Server;
use crate::support::{SLACK, tell_trials, tiny, trials};

/// A refusal is told within this.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Starts a server that must be refused, with a line that holds all of `words`.
fn refused(server: Server, words: &[&str]) {
    let since = Instant::now();
    let ended = server.start().ended(since);
    assert_eq!(ended.code, 78, "{}", ended.stderr);
    assert!(ended.after <= AT_ONCE + SLACK, "refused after {:?}", ended.after);
    assert!(!ended.stderr.contains("listening:"), "nothing is bound: {}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is named: {}", ended.stderr);
    }
}

/// A home in which a server has run once, so that its certificates are there.
fn used_home() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    let running = Server::new(&tiny()).at_home(&folder.path().join("home")).ready();
    running.signal("TERM");
    assert_eq!(running.ended(Instant::now()).code, 0);
    folder
}

#[test]
fn l12_a_mistake_of_configuration_certificate_or_model_is_told_before_anything_is_bound() {
    refused(Server::new(&tiny()).with(["--drain-seconds", "-1", "--rows", "0"]), &["--drain-seconds", "--rows"]);
    refused(Server::new(Path::new("/nowhere/model.gguf")), &["/nowhere/model.gguf"]);
    refused(Server::new(&tiny()).with(["--kv-bits", "5"]), &["--kv-bits", "off or 8 or 4"]);
    refused(Server::new(&tiny()).with(["--kv-bits", "8"]), &["kv_bits", "a multiple of 32", "have 16"]);
    let folder = used_home();
    let home = folder.path().join("home");
    fs::write(home.join("certs/server.crt"), "no certificate").expect("the file is ours");
    refused(Server::new(&tiny()).at_home(&home), &["server.crt"]);
    tell_trials("L12", 5, 3);
}

/// I4: the manifest's commands and `serve --manifest` from the outside.
#[test]
fn i4_a_model_that_is_not_what_was_signed_is_refused_and_one_that_is_serves() {
    let folder = TempDir::new().expect("a folder");
    let (home, model) = (folder.path().join("home"), folder.path().join("tiny.gguf"));
    fs::copy(tiny(), &model).expect("the folder is ours");
    let manifest = |words: &[&str]| {
        let program = env!("CARGO_BIN_EXE_sanctum-mlx");
        let ended = Command::new(program).arg("manifest").args(words).arg("--home").arg(&home).output();
        let ended = ended.expect("the binary runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let path = model.to_str().expect("UTF-8");
    let key = home.join("keys/manifest.pub");
    let serve = || Server::new(&model).at_home(&home).with(["--manifest", key.to_str().expect("UTF-8")]);
    refused(serve(), &["tiny.gguf.sha256", "manifest sign"]);
    assert_eq!(manifest(&["sign", path]).0, Some(78), "there is no key");
    assert_eq!(manifest(&["keygen"]), (Some(0), String::new()));
    assert_eq!(manifest(&["sign", path]), (Some(0), String::new()));
    assert_eq!(manifest(&["verify", path]), (Some(0), String::new()));
    let running = serve().ready();
    running.signal("TERM");
    assert_eq!(running.ended(Instant::now()).code, 0);

    let mut bytes = fs::read(&model).expect("the file is ours");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    fs::write(&model, bytes).expect("the file is ours");
    refused(serve(), &["tiny.gguf has SHA-256"]);
    let (code, said) = manifest(&["verify", path]);
    assert!(code == Some(78) && said.contains("is not what was signed"), "{said}");
}

#[test]
fn t8_a_key_that_others_can_read_is_refused() {
    let folder = used_home();
    let home = folder.path().join("home");
    let key = home.join("certs/server.key");
    for mode in [0o640, 0o604, 0o666] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("the file is ours");
        // A key of root may be read by its group; everyone else's may not.
        if mode != 0o640 || rootless() {
            refused(Server::new(&tiny()).at_home(&home), &["server.key"]);
        }
    }
    fs::remove_file(&key).expect("the file is ours");
    std::os::unix::fs::symlink("/dev/null", &key).expect("a link");
    refused(Server::new(&tiny()).at_home(&home), &["server.key"]);
    tell_trials("T8", 3, 3);
}

fn rootless() -> bool {
    sanctum_mlx::platform::host::user_id() != 0
}

#[test]
fn h12_a_plain_listener_beyond_loopback_needs_a_flag_and_a_token() {
    refused(Server::new(&tiny()).with(["--host", "0.0.0.0"]), &["--host"]);
    refused(Server::new(&tiny()).with(["--host", "0.0.0.0", "--allow-remote-plain"]), &["api-key-file"]);
    let folder = TempDir::new().expect("a folder");
    let token = folder.path().join("token");
    fs::write(&token, "a-token-of-sixteen-or-more-characters\n").expect("the folder is ours");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let token = token.display().to_string();
    refused(Server::new(&tiny()).with(["--host", "0.0.0.0", "--api-key-file", &token]), &["allow-remote-plain"]);
    let allowed = ["--host", "0.0.0.0", "--api-key-file", &token, "--allow-remote-plain"];
    let running = Server::new(&tiny()).with(allowed).ready();
    let port = running.all("plain")[0].port();
    let answer = crate::support::http::Connection::to(([127, 0, 0, 1], port).into()).get("/v1/models");
    assert_eq!(answer.expect("an answer").status, 401, "and asks for the token");
    tell_trials("H12", 3, 3);
}

#[test]
fn e9_a_damaged_model_file_ends_serve_with_78_and_its_name() {
    let folder = TempDir::new().expect("a folder");
    let (bytes, _) = tiny_gguf(1);
    let mut random = Random(9);
    let count = trials(40);
    for index in 0..count {
        let path = folder.path().join(format!("damaged-{index}.gguf"));
        fs::write(&path, Damage::truncation(&mut random, bytes.len()).of(&bytes)).expect("the folder is ours");
        refused(Server::new(&path), &[&format!("damaged-{index}.gguf")]);
    }
    tell_trials("E9", count, 40);
}
