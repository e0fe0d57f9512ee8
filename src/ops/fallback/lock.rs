//! The word that the fallback serves: `<home>/state/fallback.json`, written before the first step of a switch and removed
//! after the last step of the way back. Every watcher reads it, and asks the fallback instead while it is there. It owns
//! what it says; it is never guessed at: who cannot read it does not know which server to look at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::args::ServerArgs;
use crate::ops::state;
use crate::ops::target::Target;
use crate::ops::watch::event::{Event, Kind};
use crate::platform::files;

/// What every watcher adds to its lines while the fallback serves.
const SERVING: Kind = Kind::warn("fallback_serving");

/// One of the two servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// What the supervisor calls it.
    pub(crate) name: String,
    /// The file that defines it: launchd does not remember it of what is unloaded.
    pub(crate) definition: PathBuf,
}

/// Who serves instead of whom, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    /// Unix seconds.
    pub(crate) at: u64,
    pub(crate) why: String,
    /// Where the fallback answers, in plain HTTP.
    pub(crate) url: String,
    pub(crate) primary: Part,
    pub(crate) fallback: Part,
}

/// The file.
pub(crate) fn path(home: &Path) -> PathBuf {
    state::folder(home).join("fallback.json")
}

impl Lock {
    /// The word of this home; `None` while the primary serves.
    ///
    /// # Errors
    /// It is there and cannot be read; the message names it.
    pub(crate) fn of(home: &Path) -> anyhow::Result<Option<Self>> {
        let path = path(home);
        let remedy =
            || format!("{}: look which server is loaded; remove the file if it is the primary", path.display());
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(remedy).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(remedy),
        }
    }

    /// Leaves the word, whole or not at all.
    pub(crate) fn write(&self, home: &Path) -> anyhow::Result<()> {
        let path = path(home);
        files::keep(&path, &serde_json::to_vec_pretty(self)?, 0o600).with_context(|| path.display().to_string())
    }

    /// Takes it back; that it is gone already is fine.
    pub(crate) fn remove(home: &Path) -> anyhow::Result<()> {
        let path = path(home);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context(path.display().to_string()),
            _ => Ok(()),
        }
    }

    /// For a person.
    pub(crate) fn words(&self) -> String {
        let Self { why, url, fallback, .. } = self;
        let since = self.since();
        format!(
            "{} serves at {url} since {since}, because {why}; mutual TLS is down; `sanctum-mlx fallback restore` goes back",
            fallback.name
        )
    }

    fn since(&self) -> String {
        let at = i64::try_from(self.at).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
        at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| self.at.to_string())
    }

    /// What a watcher says that looked at the fallback.
    pub(crate) fn event(&self) -> Event {
        SERVING.with(self.words())
    }

    /// Where the fallback is asked.
    pub(crate) fn target(&self) -> Target {
        Target { url: self.url.clone(), identity: None }
    }
}

/// Whom a watcher asks: the fallback while it serves, else the server that was named.
pub(crate) fn retarget(home: &Path, args: &ServerArgs) -> anyhow::Result<(Target, Option<Lock>)> {
    match Lock::of(home)? {
        Some(lock) => Ok((lock.target(), Some(lock))),
        None => Ok((Target::of(args)?, None)),
    }
}

/// For whoever is about to load the primary: not while the fallback serves.
///
/// # Errors
/// It does; the message says what to do.
pub(crate) fn refuse(home: &Path) -> anyhow::Result<()> {
    let Some(lock) = Lock::of(home)? else { return Ok(()) };
    bail!("{}; only then this (or unload it and remove {})", lock.words(), path(home).display())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::args::RootArgs;

    fn lock() -> Lock {
        let part = |name: &str| Part { name: name.to_owned(), definition: format!("/x/{name}.plist").into() };
        let (primary, fallback) = (part("primary"), part("fallback"));
        Lock { at: 0, why: "a drill".to_owned(), url: "http://127.0.0.1:9".to_owned(), primary, fallback }
    }

    #[test]
    fn p9_while_the_word_is_there_a_watcher_asks_the_fallback_and_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let root = RootArgs { home: Some(home.path().to_owned()) };
        let url = Some("http://127.0.0.1:8".to_owned());
        let args = ServerArgs { url, ca: None, cert: None, key: None, root };
        let asked = || retarget(home.path(), &args).unwrap().0.url;
        assert_eq!(asked(), "http://127.0.0.1:8");
        refuse(home.path()).unwrap();
        lock().write(home.path()).unwrap();
        assert_eq!(asked(), "http://127.0.0.1:9");
        assert_eq!(Lock::of(home.path()).unwrap(), Some(lock()));
        let refusal = refuse(home.path()).unwrap_err().to_string();
        assert!(refusal.contains("since 1970-01-01T00:00:00Z, because a drill"), "{refusal}");
        Lock::remove(home.path()).unwrap();
        Lock::remove(home.path()).unwrap();
        assert_eq!(asked(), "http://127.0.0.1:8");
    }

    #[test]
    fn a_word_that_cannot_be_read_is_not_taken_for_none() {
        let home = tempfile::tempdir().unwrap();
        lock().write(home.path()).unwrap();
        fs::write(path(home.path()), "{").unwrap();
        let error = format!("{:#}", Lock::of(home.path()).unwrap_err());
        assert!(error.contains("fallback.json: look which server is loaded"), "{error}");
        assert!(path(home.path()).exists(), "nothing is set aside");
    }
}
