//! What a start needs besides its program, and what time takes away: the model's files, certificates that end, keys that
//! others may read, a disk that fills up.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ops::certs::{self, FIRST_CLIENT, Paths};
use crate::ops::integrity::Facts;
use crate::platform::host;

/// Whatever ends within this is told.
const DAYS: i64 = 14;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// What is done about what the server shows and trusts.
const RENEWED: &str = "the next start of the server renews its own";
/// What is done about what the watchers show: when it has ended, a server that is well looks dead to them.
const ISSUED: &str = "`certs revoke` and `certs issue` make another";

/// The model's files are there, each as large as when it was installed. No weight is read.
pub(super) fn model(facts: &Facts) -> Vec<String> {
    let files = facts.installed.iter().flat_map(|installed| &installed.model);
    let wrong = files.filter_map(|file| {
        let shown = file.path.display();
        match fs::metadata(&file.path) {
            Err(error) => Some(format!("{shown}, a file of the model: {error}")),
            Ok(found) if found.len() != file.bytes => {
                Some(format!("{shown}, a file of the model, has {} bytes, and had {}", found.len(), file.bytes))
            }
            Ok(_) => None,
        }
    });
    wrong.collect()
}

/// Nothing that is shown or trusted ends soon, and nobody else may read a key.
pub(super) fn certificates(home: &Path) -> Vec<String> {
    let paths = Paths::of(home);
    let authority = paths.ca_certificate();
    let Some(folder) = authority.parent().filter(|folder| folder.is_dir()) else {
        // A server without mutual TLS has none.
        return Vec::new();
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let mut wrong = match certs::ends(&paths) {
        Ok(ends) => ends.iter().filter_map(|(name, end)| ending(name, *end, now, RENEWED)).collect(),
        Err(error) => vec![format!("{error:#}")],
    };
    let own = paths.client_certificate(FIRST_CLIENT);
    // That there is none is told by whoever needs it.
    if let Ok(pem) = fs::read_to_string(&own) {
        match certs::facts(&pem) {
            Ok(facts) => wrong.extend(ending(FIRST_CLIENT, facts.not_after, now, ISSUED)),
            Err(error) => wrong.push(format!("{}: {error:#}", own.display())),
        }
    }
    for key in keys(folder).into_iter().chain(keys(&home.join("keys"))) {
        let Ok(found) = fs::metadata(&key) else { continue };
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            wrong.push(format!("{} has mode {mode:04o}: others may read it; chmod 600", key.display()));
        }
    }
    wrong
}

fn ending(name: &str, end: i64, now: i64, remedy: &str) -> Option<String> {
    let left = end - now;
    if left > DAYS * DAY_SECONDS {
        return None;
    }
    let word = if left <= 0 { "has ended".to_owned() } else { format!("ends in {} days", left / DAY_SECONDS) };
    Some(format!("certificate `{name}` {word}; {remedy}"))
}

/// Every key below `folder`.
fn keys(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .flat_map(|path| if path.is_dir() { keys(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "key"))
        .collect()
}

/// Logs can be written, and there is room.
pub(super) fn disk(home: &Path, bytes_min: u64) -> Vec<String> {
    let logs = home.join("logs");
    let mut wrong = Vec::new();
    let probe = logs.join(format!(".writable.{}", std::process::id()));
    let written = fs::create_dir_all(&logs)
        .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe))
        // A name alone fits onto a disk that is full.
        .and_then(|mut file| file.write_all(b"a line of a log\n"));
    // Without its line it lies there too; one that could not be made is not there.
    let _ = fs::remove_file(&probe);
    if let Err(error) = written {
        wrong.push(format!("{} cannot be written to: {error}", logs.display()));
    }
    match host::disk_bytes_free(home) {
        Ok(free) if free < bytes_min => {
            let (free, least) = (free / 1_000_000, bytes_min / 1_000_000);
            wrong.push(format!("{} MB are free on the disk of {}; {least} should be", free, home.display()));
        }
        Ok(_) => {}
        Err(error) => wrong.push(format!("{}: {error}", home.display())),
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_within_two_weeks_is_told_with_its_days() {
        assert_eq!(ending("ca", 15 * DAY_SECONDS, 0, RENEWED), None);
        let soon = ending("crl", 14 * DAY_SECONDS, 0, RENEWED);
        assert!(soon.is_some_and(|text| text.contains("`crl` ends in 14 days; the next start")));
        assert!(ending("server", 5, 6, ISSUED).is_some_and(|text| text.contains("`server` has ended; `certs revoke`")));
    }
}
