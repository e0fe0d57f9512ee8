//! What a watcher can have to say: a closed set of kinds, each with its level and its patience. It refuses to know how it
//! is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How bad, in the words of log readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Info,
    Warn,
    Error,
}

/// One kind of event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its name in lines and alerts.
    pub(crate) name: &'static str,
    /// How bad it is.
    pub(crate) level: Level,
    /// How long after an alert the next one of this kind is held back; `None` alerts nobody.
    pub(crate) cooldown: Option<Duration>,
}

impl Kind {
    /// All is well.
    pub(crate) const fn info(name: &'static str) -> Self {
        Self { name, level: Level::Info, cooldown: None }
    }

    /// Worth a line, not a call.
    pub(crate) const fn warn(name: &'static str) -> Self {
        Self { name, level: Level::Warn, cooldown: None }
    }

    /// Something is broken; whether anyone is called, [`Kind::alerting`] says.
    pub(crate) const fn error(name: &'static str) -> Self {
        Self { name, level: Level::Error, cooldown: None }
    }

    /// The same, and someone is called, at most once in `minutes`.
    pub(crate) const fn alerting(self, minutes: u64) -> Self {
        Self { cooldown: Some(Duration::from_secs(minutes * 60)), ..self }
    }

    /// One event of this kind.
    pub(crate) fn with(&'static self, detail: impl Into<String>) -> Event {
        Event { kind: self, detail: detail.into() }
    }
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: &'static Kind,
    pub(crate) detail: String,
}
