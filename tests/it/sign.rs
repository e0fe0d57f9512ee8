//! `scripts/sign`: on a Mac it makes a signature that the system accepts, elsewhere it says what is done instead.

use std::process::{Command, Output};

fn sign(program: &std::path::Path) -> Output {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/sign")).arg(program).output().expect("bash runs")
}

#[cfg(target_os = "macos")]
#[test]
fn i6_a_signed_build_has_the_hardened_runtime_and_no_entitlement() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let program = folder.path().join("sanctum-mlx");
    std::fs::copy(env!("CARGO_BIN_EXE_sanctum-mlx"), &program).expect("the binary is built");
    let output = sign(&program);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = |words: &[&str]| {
        let output = Command::new("/usr/bin/codesign").args(words).arg(&program).output().expect("codesign runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let flags = shown(&["--display", "--verbose=2"]);
    assert!(flags.lines().any(|line| line.contains("flags=") && line.contains("runtime")), "{flags}");
    let entitlements = shown(&["--display", "--entitlements", "-", "--xml"]);
    assert!(!entitlements.contains("<key>"), "{entitlements}");
    let version = Command::new(&program).arg("--version").output().expect("it starts");
    assert!(version.status.success(), "a program that is signed wrongly is killed");
}

#[cfg(not(target_os = "macos"))]
#[test]
fn a_system_that_does_not_sign_says_what_is_done_instead() {
    let output = sign(std::path::Path::new("/bin/sh"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && words.contains("the install record holds their hashes"), "{words}");
}
