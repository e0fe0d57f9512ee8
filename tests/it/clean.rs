//! `scripts/clean`: the clean-up that once removed a running server's binary, and does not any more.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Runs the script on a build folder of the test's own, with a home of its own.
fn clean(target: &Path, home: &Path) -> Output {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/clean"))
        .env("CARGO_TARGET_DIR", target)
        .env("HOME", home)
        .output()
        .expect("bash runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_build_folder_in_service_stays_and_one_that_is_not_goes() {
    let folder = TempDir::new().expect("a folder");
    let root = fs::canonicalize(folder.path()).expect("it is there");
    let (target, home) = (root.join("target"), root.join("home"));
    let (program, agents) = (target.join("release/sleep"), home.join(".config/systemd/user"));
    fs::create_dir_all(target.join("release")).expect("the folder is ours");
    fs::create_dir_all(&agents).expect("the folder is ours");
    fs::copy("/bin/sleep", &program).expect("there is a sleep");

    let output = clean(&target, &home);
    assert!(output.status.code() == Some(1) && said(&output).contains("cargo did not make it"), "{}", said(&output));
    fs::write(target.join("CACHEDIR.TAG"), "").expect("the folder is ours");

    let mut running = Command::new(&program).arg("600").spawn().expect("it runs");
    let output = clean(&target, &home);
    let words = format!("process {} runs {}", running.id(), program.display());
    running.kill().expect("it is ours");
    running.wait().expect("it is ours");
    assert!(output.status.code() == Some(1) && said(&output).contains(&words), "{}", said(&output));
    assert!(program.exists());

    let unit = agents.join("sanctum-mlx.service");
    fs::write(&unit, format!("[Service]\nExecStart={} serve\n", program.display())).expect("the folder is ours");
    let output = clean(&target, &home);
    assert!(output.status.code() == Some(1) && said(&output).contains("sanctum-mlx.service"), "{}", said(&output));
    fs::remove_file(unit).expect("the file is ours");

    let output = clean(&target, &home);
    assert!(output.status.success() && !target.exists(), "{}", said(&output));
}
