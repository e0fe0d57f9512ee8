//! Files that a start needs: the root, the logs, the model, the certificates.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use crate::config::home::try_writing;
use crate::ops::certs::{Paths, facts, revocations_window};
use crate::ops::doctor::{Finding, quoted, size};
use crate::platform::host;

/// A certificate with less than this left is warned about.
const WARN_SECONDS: i64 = 14 * 24 * 3_600;
/// Most files of a model folder that are looked at.
const MODEL_FILES_MAX: usize = 4_096;

/// The root of everything kept; what is wrong with it was found when the settings were resolved.
pub(super) fn home(home: &Path) -> Finding {
    let state = if home.exists() { "is yours alone and writable" } else { "will be made at the first start" };
    Finding::ok("home", format!("{} {state}", quoted(home)))
}

/// Where the watchers write; the server itself speaks on stderr, so that this stops no start.
pub(super) fn logs(home: &Path) -> Finding {
    const CHECK: &str = "logs";
    let folder = home.join("logs");
    let shown = quoted(&folder);
    if fs::symlink_metadata(&folder).is_err() {
        return Finding::ok(CHECK, format!("{shown} will be made by the first watcher"));
    }
    match try_writing(&folder) {
        Ok(()) => Finding::ok(CHECK, format!("{shown} is writable")),
        Err(error) => {
            let remedy = format!("make it a folder of yours: mkdir -p {shown} && chmod 700 {shown}");
            Finding::warn(CHECK, format!("{shown} cannot be written to ({error})"), remedy)
        }
    }
}

/// Where the model lies that a start would load, when that is a place on this disk.
pub(crate) fn model_path(name: Option<&str>, home: &Path) -> Option<PathBuf> {
    let path = name.map_or_else(|| home.join("models/default"), PathBuf::from);
    path.exists().then_some(path)
}

/// The model that would be loaded, and the bytes of its weights when they are on this disk.
pub(super) fn model(name: Option<&str>, home: &Path) -> (Finding, u64) {
    const CHECK: &str = "model";
    let Some(name) = name else {
        let folder = home.join("models/default");
        let bytes = weights_bytes(&folder);
        if bytes > 0 {
            return (Finding::ok(CHECK, format!("the default one, {}, {}", quoted(&folder), size(bytes))), bytes);
        }
        let remedy = "run scripts/setup, or name one with --model";
        return (Finding::fail(CHECK, format!("none is named, and {} has none", quoted(&folder)), remedy), 0);
    };
    let path = Path::new(name);
    let bytes = weights_bytes(path);
    if path.is_dir() && !path.join("config.json").is_file() && bytes > 0 && !holds_gguf(path) {
        let wrong = format!("{} has no config.json", quoted(path));
        return (Finding::fail(CHECK, wrong, "name a folder in MLX or Hugging Face layout"), 0);
    }
    match (path.exists(), bytes) {
        (true, 0) => {
            let wrong = format!("{} has no .safetensors and no .gguf", quoted(path));
            (Finding::fail(CHECK, wrong, "name a model folder or a .gguf file"), 0)
        }
        (true, bytes) => (Finding::ok(CHECK, format!("{}, {}", quoted(path), size(bytes))), bytes),
        (false, _) if looks_like_a_path(name) => {
            (Finding::fail(CHECK, format!("{name} is not there"), "name a folder, a .gguf file or a hub name"), 0)
        }
        (false, _) => {
            let remedy = format!("`sanctum-mlx pull {name}` downloads it now instead of at the start");
            (
                Finding::warn(
                    CHECK,
                    format!("{name} is a hub name; whether it is on this disk is not looked at"),
                    remedy,
                ),
                0,
            )
        }
    }
}

/// A hub name is `owner/name`; anything else that is not there was meant as a path.
fn looks_like_a_path(name: &str) -> bool {
    name.starts_with(['/', '.', '~']) || name.ends_with(".gguf") || name.matches('/').count() != 1
}

fn holds_gguf(folder: &Path) -> bool {
    weights(folder).iter().any(|path| path.extension().is_some_and(|extension| extension == "gguf"))
}

/// The weights at a path: itself, or the files in it.
pub(super) fn weights(path: &Path) -> Vec<PathBuf> {
    let is_weights =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf");
    if path.is_file() {
        return Some(path.to_owned()).filter(is_weights).into_iter().collect();
    }
    let entries = fs::read_dir(path).into_iter().flatten().take(MODEL_FILES_MAX).flatten();
    entries.map(|entry| entry.path()).filter(is_weights).collect()
}

fn weights_bytes(path: &Path) -> u64 {
    weights(path).iter().filter_map(|path| fs::metadata(path).ok()).map(|facts| facts.len()).sum()
}

/// The certificates: there, in their time, and their keys for nobody else.
pub(super) fn certificates(home: &Path, tls_off: bool) -> Vec<Finding> {
    const CHECK: &str = "certificates";
    let paths = Paths::of(home);
    if tls_off {
        return vec![Finding::not_applicable(CHECK, "mutual TLS is off")];
    }
    if !paths.ca_certificate().exists() {
        return vec![Finding::ok(CHECK, "none yet; the first start makes them")];
    }
    let renewable = paths.ca_key().exists();
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut findings = Vec::new();
    for path in [paths.ca_certificate(), paths.server_certificate()] {
        let times = read(&path).and_then(|pem| facts(&pem).map_err(|error| error.to_string()));
        let times = times.map(|facts| (facts.not_before, facts.not_after));
        let is_ca = path == paths.ca_certificate();
        findings.push(window(&path, times, now, renewable && !is_ca));
    }
    let path = paths.revocations();
    let times = read(&path).and_then(|pem| revocations_window(&pem).map_err(|error| error.to_string()));
    findings.push(window(&path, times, now, renewable));
    findings.extend([paths.ca_key(), paths.server_key()].iter().filter_map(|path| key(path, renewable)));
    findings
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Whether what holds from the first of `times` to the second lasts; `renewable` things are renewed by the next start.
pub(super) fn window(path: &Path, times: Result<(i64, i64), String>, now: i64, renewable: bool) -> Finding {
    const CHECK: &str = "certificates";
    let shown = quoted(path);
    let remedy =
        if renewable { "the next start renews it" } else { "bring ca.key back and run `sanctum-mlx certs init`" };
    match times {
        Err(_) if renewable && !path.exists() => Finding::warn(CHECK, format!("{shown} is missing"), remedy),
        Err(wrong) => {
            Finding::fail(CHECK, format!("{shown}: {wrong}"), "restore it, or move it away and run `certs init`")
        }
        Ok((begin, _)) if begin > now => {
            let hours = (begin - now) / 3_600 + 1;
            let remedy = "set this machine's clock; if it is right, the one that made the certificate was wrong";
            Finding::fail(CHECK, format!("{shown} is not valid before {hours} hours from now"), remedy)
        }
        Ok((_, end)) if end > now + WARN_SECONDS => {
            Finding::ok(CHECK, format!("{shown} lasts {} days", (end - now) / 86_400))
        }
        Ok((_, end)) if end > now => {
            Finding::warn(CHECK, format!("{shown} ends in {} hours", (end - now) / 3_600), remedy)
        }
        Ok(_) if renewable => Finding::warn(CHECK, format!("{shown} has expired"), remedy),
        Ok(_) => Finding::fail(CHECK, format!("{shown} has expired"), remedy),
    }
}

/// The rule that the listener refuses to start by (T8): regular, its owner's, and nobody else's.
fn key(path: &Path, may_be_elsewhere: bool) -> Option<Finding> {
    const CHECK: &str = "keys";
    let shown = quoted(path);
    let facts = match fs::symlink_metadata(path) {
        Ok(facts) => facts,
        // The authority's key may be kept elsewhere; a server key is made again by whoever has it.
        Err(_) if may_be_elsewhere || path.ends_with("ca.key") => return None,
        Err(error) => {
            return Some(Finding::fail(CHECK, format!("{shown}: {error}"), "bring ca.key back and run `certs init`"));
        }
    };
    let mode = facts.permissions().mode() & 0o777;
    let mine = facts.uid() == host::user_id();
    let roots = facts.uid() == 0 && mode & !0o640 == 0;
    if !facts.is_file() {
        return Some(Finding::fail(CHECK, format!("{shown} is no regular file"), "put the key itself there"));
    }
    if roots || (mine && mode & 0o077 == 0) {
        return Some(Finding::ok(CHECK, format!("{shown} has mode {mode:04o}")));
    }
    let remedy = format!("chown {} {shown} && chmod 600 {shown}", host::user_id());
    Some(Finding::fail(CHECK, format!("{shown} has mode {mode:04o} and owner {}", facts.uid()), remedy))
}
