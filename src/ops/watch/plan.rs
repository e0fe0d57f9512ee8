//! `<home>/watch.toml`: whom the watchers tell, and what the canary asks. It owns the names in that file and what is a
//! mistake there; without the file everything has a default and alerts go to stderr alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;

/// The file's name below the root.
pub(crate) const FILE: &str = "watch.toml";

/// The whole file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Plan {
    pub(crate) alerts: Alerts,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) canary: Canary,
    pub(crate) fallback: Fallback,
}

/// Whom to tell. Every one that is named is told, each on its own.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Alerts {
    /// A URL that takes the alert as a JSON POST.
    pub(crate) webhook: Option<String>,
    /// A program with its arguments, which gets the alert as JSON on its stdin.
    pub(crate) command: Vec<PathBuf>,
    /// A notification on the desktop; macOS only.
    pub(crate) notification: bool,
}

/// The dead man's switch.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Heartbeat {
    /// A URL that is fetched after each healthy tick of the guardian, by which a watcher on another machine knows.
    pub(crate) url: Option<String>,
}

/// What the canary asks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Canary {
    /// The question.
    pub(crate) question: String,
    /// What an answer must contain.
    pub(crate) expected: String,
}

impl Default for Canary {
    fn default() -> Self {
        Self { question: "What is 2+2? Respond with only the number.".to_owned(), expected: "4".to_owned() }
    }
}

/// The server that may take the place of one that no restart can help.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fallback {
    /// Whether there is one.
    pub(crate) enabled: bool,
    /// Where it answers, in plain HTTP.
    pub(crate) url: String,
}

impl Default for Fallback {
    /// The port that clients know: only one of the two has it at a time.
    fn default() -> Self {
        Self { enabled: false, url: "http://127.0.0.1:1337".to_owned() }
    }
}

impl Plan {
    /// The plan of the home; the default when there is no file.
    ///
    /// # Errors
    /// The file cannot be read or says something that makes no sense; the message names the file and the key.
    pub(crate) fn of(home: &Path) -> anyhow::Result<Self> {
        let path = home.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let plan = toml::from_str::<Self>(&text).with_context(|| path.display().to_string())?;
        plan.check().with_context(|| path.display().to_string())?;
        Ok(plan)
    }

    fn check(&self) -> anyhow::Result<()> {
        for (key, url) in [("alerts.webhook", &self.alerts.webhook), ("heartbeat.url", &self.heartbeat.url)] {
            let Some(url) = url else { continue };
            if !url.starts_with("https://") && !url.starts_with("http://") {
                bail!("{key} = {url:?} is no URL; it begins with http:// or https://");
            }
        }
        if let Some(program) = self.alerts.command.first()
            && !program.is_absolute()
        {
            bail!("alerts.command begins with {}, which is not an absolute path", program.display());
        }
        if self.alerts.notification && !cfg!(target_os = "macos") {
            bail!("alerts.notification is for macOS; use alerts.command here");
        }
        if !self.fallback.url.starts_with("http://") {
            bail!(
                "fallback.url = {:?} does not begin with http://; mutual TLS is this server's own",
                self.fallback.url
            );
        }
        for (key, text) in [("canary.question", &self.canary.question), ("canary.expected", &self.canary.expected)] {
            if text.trim().is_empty() {
                bail!("{key} is empty; an empty answer must never look right");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(text: &str) -> anyhow::Result<Plan> {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), text).unwrap();
        Plan::of(home.path())
    }

    #[test]
    fn no_file_is_the_default_and_a_part_leaves_the_rest() {
        assert_eq!(Plan::of(tempfile::tempdir().unwrap().path()).unwrap(), Plan::default());
        let plan = of("[alerts]\nwebhook = \"https://example.org/x\"\ncommand = [\"/bin/cat\", \"-\"]").unwrap();
        assert_eq!(plan.alerts.command, [Path::new("/bin/cat"), Path::new("-")]);
        assert_eq!(plan.canary, Canary::default());
    }

    #[test]
    fn each_mistake_names_the_file_and_the_key() {
        let cases = [
            ("[alerts]\nwebhok = \"x\"", "webhok"),
            ("[alerts]\nwebhook = \"example.org\"", "alerts.webhook = \"example.org\" is no URL"),
            ("[heartbeat]\nurl = \"ftp://x\"", "heartbeat.url"),
            ("[alerts]\ncommand = [\"cat\"]", "alerts.command begins with cat"),
            ("[canary]\nexpected = \" \"", "canary.expected is empty"),
            ("[fallback]\nurl = \"https://127.0.0.1:1338\"", "fallback.url = \"https://127.0.0.1:1338\""),
            ("[", "TOML"),
        ];
        for (text, words) in cases {
            let error = format!("{:#}", of(text).unwrap_err());
            assert!(error.contains(FILE) && error.contains(words), "{text}: {error}");
        }
    }
}
