//! The program that the supervisor would execute: that it is there and may be executed, that it is the one that was
//! installed, and that it is the one that runs. A restart of a server that still runs, from a file that is gone, is how an
//! outage begins.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
#[cfg(target_os = "macos")]
use std::process::Command;
#[cfg(target_os = "macos")]
use std::time::Duration;

use crate::ops::integrity::Facts;
#[cfg(not(target_os = "macos"))]
use crate::ops::manifest::{hash, lines};
#[cfg(not(target_os = "macos"))]
use crate::ops::state::State;
#[cfg(target_os = "macos")]
use crate::platform::child;
use crate::platform::executable::Identity;
use crate::platform::process;

/// What cargo puts into a build folder.
const BUILD_MARK: &str = "CACHEDIR.TAG";

/// The path that will be executed exists, is a regular file, executable, and no build's.
pub(super) fn of(facts: &Facts) -> Vec<String> {
    let Some(program) = facts.program() else {
        // Without a service there is nothing to ask, and the definition's check says that it is not loaded.
        return facts.service.iter().map(|_| "the supervisor does not say what it would execute".to_owned()).collect();
    };
    obstacle(&program).into_iter().collect()
}

fn obstacle(program: &Path) -> Option<String> {
    let shown = program.display();
    let facts = match fs::metadata(program) {
        Ok(facts) => facts,
        Err(error) => return Some(format!("{shown}, which would be executed: {error}")),
    };
    if !facts.is_file() {
        return Some(format!("{shown}, which would be executed, is no file"));
    }
    if facts.permissions().mode() & 0o111 == 0 {
        return Some(format!("{shown} may not be executed"));
    }
    let real = fs::canonicalize(program).ok()?;
    let build = in_build_folder(&real)?;
    Some(format!("{shown} lies in the build folder {}, which a clean-up removes", build.display()))
}

/// The build folder that `path` lies in.
pub(crate) fn in_build_folder(path: &Path) -> Option<&Path> {
    path.ancestors().find(|folder| folder.join(BUILD_MARK).exists())
}

/// The program's signature holds.
#[cfg(target_os = "macos")]
pub(super) fn signature(facts: &Facts) -> Vec<String> {
    const CODESIGN: &str = "/usr/bin/codesign";
    const LIMIT: Duration = Duration::from_secs(20);
    let Some(program) = facts.program().filter(|program| program.is_file()) else { return Vec::new() };
    let mut command = Command::new(CODESIGN);
    command.args(["--verify", "--strict"]).arg(&program);
    match child::run(&mut command, b"", LIMIT) {
        Ok(ended) if ended.status.success() => Vec::new(),
        Ok(ended) => vec![format!("codesign --verify --strict {}: {}", program.display(), ended.words())],
        Err(error) => vec![error.to_string()],
    }
}

/// The program is, byte by byte, the one that was installed. It is read again only when its inode, size or times changed.
#[cfg(not(target_os = "macos"))]
pub(super) fn signature(facts: &Facts) -> Vec<String> {
    let Some((folder, release)) = &facts.release else { return Vec::new() };
    let Some(program) = facts.program().and_then(|program| fs::canonicalize(program).ok()) else { return Vec::new() };
    let Some(recorded) = release.files.iter().find(|file| folder.join(&file.path) == program) else {
        return vec![format!("{} is not a file of the release {}", program.display(), folder.display())];
    };
    let state = State::of(&facts.home, "integrity-cache");
    let mut cache: hash::Cache = state.read();
    let before = cache.clone();
    let found = match hash::all(std::slice::from_ref(&program), &mut cache) {
        Ok((hashes, _)) => lines::hex(&hashes[0]),
        Err(error) => return vec![format!("{error:#}")],
    };
    if cache != before {
        // What cannot be kept is computed again at the next tick.
        let _ = state.write(&cache);
    }
    if found == recorded.sha256 {
        return Vec::new();
    }
    vec![format!("{} has SHA-256 {found}, and {} was installed", program.display(), recorded.sha256)]
}

/// The file that runs is the one that would be started next.
pub(super) fn running(facts: &Facts) -> Vec<String> {
    let pid = facts.service.as_ref().and_then(|service| service.pid).or(facts.serving);
    let (Some(pid), Some(program)) = (pid, facts.program()) else { return Vec::new() };
    let Ok(next) = Identity::of(&program) else { return Vec::new() };
    match Identity::of_process(pid) {
        Ok(now) if now == next => Vec::new(),
        Ok(_) => {
            vec![format!("process {pid} runs another file than {}: stale until it is restarted", program.display())]
        }
        // It ended meanwhile, which the guardian notices.
        Err(_) if !process::lives(pid) => Vec::new(),
        Err(error) => vec![format!("what process {pid} runs cannot be looked at: {error}")],
    }
}
