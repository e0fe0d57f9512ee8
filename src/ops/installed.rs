//! What an installation wrote down of itself: `release.json` in each release folder, which moves with `current`, and
//! `<home>/install.json` for what is outside of releases. It owns the two formats and where they lie; it refuses to know
//! how an installation is made and what is done when it is not as it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::platform::files;

/// The format that is written; another is refused, never guessed at.
const FORMAT: u32 = 1;

/// The folder of all releases.
pub(crate) fn releases(home: &Path) -> PathBuf {
    home.join("releases")
}

/// The link to the release that the supervisor executes.
pub(crate) fn current(home: &Path) -> PathBuf {
    home.join("current")
}

/// The program that the supervisor executes, by the link.
pub(crate) fn program(home: &Path) -> PathBuf {
    current(home).join("bin").join("sanctum-mlx")
}

/// The link to the release that the watchers are started from: other names of the same files, so that whoever removes the
/// server's cannot silence those who would tell.
pub(crate) fn watchers(home: &Path) -> PathBuf {
    home.join("watchers")
}

/// The program that the supervisor executes for a watcher.
pub(crate) fn watcher(home: &Path) -> PathBuf {
    watchers(home).join("bin").join("sanctum-mlx")
}

/// When a file was last changed, as [`Recorded`] keeps it.
pub(crate) fn modified_ns(facts: &fs::Metadata) -> u64 {
    let since = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// One file as it was when it was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// Below the release folder in a [`Release`], absolute in [`Installed`].
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// Nanoseconds since 1970 of its last change.
    pub(crate) modified_ns: u64,
    /// In lower-case hexadecimal.
    pub(crate) sha256: String,
}

/// One file by its size: what can be told of weights without reading them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sized {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// What a release folder holds. It is written last: a folder without it is no release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Release {
    format: u32,
    pub(crate) version: String,
    pub(crate) revision: String,
    pub(crate) files: Vec<Recorded>,
}

/// Something that the supervisor has loaded for us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Agent {
    /// launchd's label, or systemd's unit: the service of the server, the timer of a companion.
    pub(crate) name: String,
    /// The files that define it, absolute: one plist, or a timer and its service.
    pub(crate) definitions: Vec<Recorded>,
}

/// What is installed for this home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Installed {
    format: u32,
    /// Unix seconds.
    pub(crate) at: u64,
    /// The folder that `current` was made to name.
    pub(crate) release: PathBuf,
    /// The one before it, for `rollback`.
    pub(crate) previous: Option<PathBuf>,
    /// The server first, then its companions.
    pub(crate) agents: Vec<Agent>,
    /// The settings file, when there was one.
    pub(crate) settings: Option<Recorded>,
    /// The files of the model when it was installed, absolute, with their bytes; none when the settings name a model of
    /// the hub or none.
    pub(crate) model: Vec<Sized>,
    pub(crate) drain_seconds: u64,
}

impl Release {
    pub(crate) fn new(version: &str, revision: &str, files: Vec<Recorded>) -> Self {
        Self { format: FORMAT, version: version.to_owned(), revision: revision.to_owned(), files }
    }

    /// The record in a release folder.
    ///
    /// # Errors
    /// It is missing, torn or of another format; the message names it.
    pub(crate) fn of(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("release.json");
        read(&path)?.with_context(|| format!("{} is missing: this is no whole release", path.display()))
    }

    /// Leaves the record in a release folder, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write(&folder.join("release.json"), self)
    }
}

impl Installed {
    /// A record of now's format of `release`, with nothing else in it.
    pub(crate) fn new(at: u64, release: PathBuf) -> Self {
        let (previous, agents, settings, model, drain_seconds) = (None, Vec::new(), None, Vec::new(), 0);
        Self { format: FORMAT, at, release, previous, agents, settings, model, drain_seconds }
    }

    /// The record of this home; `None` when nothing was ever installed.
    ///
    /// # Errors
    /// It is torn or of another format; the message names it.
    pub(crate) fn of(home: &Path) -> anyhow::Result<Option<Self>> {
        read(&home.join("install.json"))
    }

    /// Leaves the record, whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, home: &Path) -> anyhow::Result<()> {
        write(&home.join("install.json"), self)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let shown = || path.display().to_string();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(shown),
    };
    let Format { format } = serde_json::from_slice(&text).with_context(shown)?;
    if format != FORMAT {
        bail!("{} has format {format}, and this program reads {FORMAT}: use the one that wrote it", path.display());
    }
    serde_json::from_slice(&text).with_context(shown).map(Some)
}

fn write(path: &Path, record: &impl Serialize) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec_pretty(record)?;
    files::keep(path, &bytes, 0o600).with_context(|| path.display().to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written_and_nothing_is_guessed() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Installed::of(home.path()).unwrap(), None);
        assert!(Release::of(home.path()).unwrap_err().to_string().contains("no whole release"));
        let file = Recorded { path: "bin/x".into(), bytes: 3, modified_ns: 7, sha256: "00".into() };
        let release = Release::new("1.0.0", "abc", vec![file.clone()]);
        release.write(home.path()).unwrap();
        assert_eq!(Release::of(home.path()).unwrap(), release);
        let mut installed = Installed::new(1, home.path().join("releases/1.0.0-abc"));
        installed.agents = vec![Agent { name: "x".into(), definitions: vec![file] }];
        installed.write(home.path()).unwrap();
        assert_eq!(Installed::of(home.path()).unwrap(), Some(installed));
        for (text, words) in [("{", "install.json"), (r#"{"format": 9}"#, "format 9"), (r#"{"format": 1}"#, "missing")]
        {
            fs::write(home.path().join("install.json"), text).unwrap();
            let error = format!("{:#}", Installed::of(home.path()).unwrap_err());
            assert!(error.contains(words) && error.contains("install.json"), "{text}: {error}");
        }
    }
}
