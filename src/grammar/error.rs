//! Why a request's grammar is not compiled, and whose fault that is. It reads the words of llguidance, which tells its
//! limits in prose, so that a client learns the name and the number of the limit.

use std::fmt;
use std::time::Duration;

use crate::grammar::budget::{Budget, PLACE_ITEMS_MAX, STEP_FUEL_MAX};

/// Longest reason that is passed on; llguidance quotes whole grammars.
const REASON_BYTES_MAX: usize = 300;

/// What a client wrote the grammar in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A JSON schema.
    Schema,
    /// A regular expression.
    Regex,
    /// A grammar in llguidance's variant of Lark.
    Lark,
    /// A list of texts.
    Choice,
    /// The shape of a tool call.
    Shape,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Schema => "JSON schema",
            Self::Regex => "regular expression",
            Self::Lark => "Lark grammar",
            Self::Choice => "list of choices",
            Self::Shape => "shape of a tool call",
        })
    }
}

/// Whose fault a grammar error is; the edge makes a status of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client's: another grammar would do.
    Client,
    /// Nobody's: the same grammar may compile in a moment.
    Busy,
    /// Ours.
    Ours,
}

/// Why a request's grammar is not compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// More bytes than are read.
    #[error("the {source_kind} has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// What it is written in.
        source_kind: Source,
        /// Its size.
        bytes: usize,
        /// The most that is read.
        limit: usize,
    },
    /// More of something than is compiled.
    #[error("the {source_kind} needs more than {limit} {unit}")]
    TooMuch {
        /// What it is written in.
        source_kind: Source,
        /// What there is too much of.
        unit: &'static str,
        /// The most there may be.
        limit: u64,
    },
    /// A keyword of a JSON schema that is not supported, or not with this value.
    #[error("`{keyword}` at {path} {reason}")]
    Keyword {
        /// The schema that has the keyword, as a JSON pointer behind `#`.
        path: String,
        /// The keyword.
        keyword: String,
        /// What is wrong with it, as the rest of a sentence.
        reason: String,
    },
    /// A part of a JSON schema that no grammar can be made of.
    #[error("the JSON schema at {path} cannot be compiled: {reason}")]
    Part {
        /// The innermost schema that does not compile, as a JSON pointer behind `#`.
        path: String,
        /// Why.
        reason: String,
    },
    /// Not a text of the language it is written in.
    #[error("the {source_kind} is not valid: {reason}")]
    Invalid {
        /// What it is written in.
        source_kind: Source,
        /// Why.
        reason: String,
    },
    /// Not compiled in time.
    #[error("the {source_kind} takes longer than {} ms to compile", limit.as_millis())]
    Slow {
        /// What it is written in.
        source_kind: Source,
        /// The most it may take.
        limit: Duration,
    },
    /// All threads that compile are taken by others.
    #[error("too many grammars are being compiled")]
    Busy,
    /// The compiler gave up in a way that nobody foresaw.
    #[error("the grammar compiler failed: {0}")]
    Crashed(String),
}

impl GrammarError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::TooLarge { .. }
            | Self::TooMuch { .. }
            | Self::Keyword { .. }
            | Self::Part { .. }
            | Self::Invalid { .. }
            | Self::Slow { .. } => Fault::Client,
            Self::Busy => Fault::Busy,
            Self::Crashed(_) => Fault::Ours,
        }
    }

    /// What llguidance said about a grammar. Its limits are recognised by their words, because it has no other.
    pub(crate) fn told(source_kind: Source, said: &str, budget: Budget) -> Self {
        if said.starts_with("panic:") {
            return Self::Crashed(brief(said));
        }
        let limits = [
            ("initial lexer configuration", "units of lexer fuel", budget.lexer_fuel),
            ("lexer precomputation failed", "units of lexer fuel", budget.lexer_fuel),
            ("fuel exhausted", "units of lexer fuel", budget.lexer_fuel),
            ("grammar size", "grammar symbols", budget.symbols_max as u64),
            ("too many expressions constructed", "units of lexer fuel for one token", STEP_FUEL_MAX),
            ("Current row has", "ways on from one place", PLACE_ITEMS_MAX as u64),
            // The two limits of llguidance that have no setting.
            ("schema too large", "intersections of schemas", 50_000),
            ("intersection stack level", "levels of intersected schemas", 128),
        ];
        match limits.into_iter().find(|(words, ..)| said.contains(words)) {
            Some((_, unit, limit)) => Self::TooMuch { source_kind, unit, limit },
            None => Self::Invalid { source_kind, reason: brief(said) },
        }
    }
}

/// The sentence of a report that says what is wrong, in one line.
pub(crate) fn brief(said: &str) -> String {
    let verdict = said.lines().find_map(|line| line.trim().strip_prefix("error: "));
    let line = verdict.or_else(|| said.lines().next()).unwrap_or_default().trim();
    let end = (0..=line.len().min(REASON_BYTES_MAX)).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    line[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_many_lines_becomes_its_verdict() {
        assert_eq!(brief("bad (in regex): regex parse error:\n    (a\n    ^\nerror: unclosed group"), "unclosed group");
        assert_eq!(brief("no start rule found\n<state>"), "no start rule found");
        assert_eq!(brief(""), "");
        assert_eq!(brief(&"\u{e9}".repeat(400)).len(), REASON_BYTES_MAX);
    }

    #[test]
    fn a_limit_is_told_with_its_number() {
        let error = GrammarError::told(Source::Lark, "grammar size (number of symbols) too big", Budget::REQUEST);
        assert!(error.to_string().contains("grammar symbols") && error.to_string().contains("100000"), "{error}");
        assert_eq!(error.fault(), Fault::Client);
    }

    #[test]
    fn a_panic_of_the_compiler_is_ours() {
        let error = GrammarError::told(Source::Regex, "panic: index out of bounds\n<backtrace>", Budget::REQUEST);
        assert_eq!(error, GrammarError::Crashed("panic: index out of bounds".to_owned()));
        assert_eq!(error.fault(), Fault::Ours);
    }
}
