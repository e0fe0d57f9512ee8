//! What is wrong with a configuration, all of it, one line each. A line names who said it (flag, variable, key or
//! file), what is wrong, and what would be right; it never carries a secret. It refuses to stop at the first.

use std::fmt;
use std::path::PathBuf;

/// Who gave a value. Earlier variants win over later ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A flag on the command line, with its dashes.
    Flag(String),
    /// An environment variable.
    Variable(String),
    /// A key of the settings file.
    File(PathBuf, String),
    /// Nobody: the documented default of this key.
    Default(String),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(formatter, "flag {flag}"),
            Self::Variable(name) => write!(formatter, "variable {name}"),
            Self::File(path, key) => write!(formatter, "{}: key {key}", path.display()),
            Self::Default(key) => write!(formatter, "default of {key}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {wrong}; {right}")]
pub struct Mistake {
    /// Who said it: a [`Source`], or the path of a file that cannot be used.
    pub(crate) origin: String,
    /// What is wrong with it.
    pub(crate) wrong: String,
    /// What would be right.
    pub(crate) right: String,
}

impl Mistake {
    pub(crate) fn new(origin: impl fmt::Display, wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self { origin: origin.to_string(), wrong: wrong.into(), right: right.into() }
    }
}

impl Mistake {
    /// Who said it and what is wrong.
    #[must_use]
    pub fn told(&self) -> String {
        format!("{}: {}", self.origin, self.wrong)
    }

    /// What would be right.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.right
    }
}

/// Everything that is wrong; never empty. Exit 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// `Err` if there are any.
    pub(crate) fn check(found: Vec<Mistake>) -> Result<(), Self> {
        if found.is_empty() { Ok(()) } else { Err(Self(found)) }
    }

    /// Each of them, in the order of the report.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.count() == 1 { "mistake" } else { "mistakes" };
        write!(formatter, "{} {noun} in the configuration; nothing was started", self.count())?;
        for mistake in &self.0 {
            write!(formatter, "\n  {mistake}")?;
        }
        Ok(())
    }
}
