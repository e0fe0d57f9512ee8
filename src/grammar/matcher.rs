//! One row's place in its grammar: which token it takes and which may come next. It lives on the worker's thread and
//! refuses to know about threads.
//!
//! Invariant: every mask has at least one token; where a grammar has none, it is an error.

use std::fmt;
use std::sync::Arc;

use llguidance::{CancellationHandle, TokenParser};

use crate::grammar::budget::ROW_BYTES_MAX;
use crate::grammar::error::brief;
use crate::grammar::vocabulary::Vocabulary;
use crate::job::Mask;

/// The grammar leads nowhere from here.
const NOTHING_ALLOWED: &str = "the grammar allows no token here";

/// The state of one row.
pub(crate) struct Row {
    /// llguidance's parser and lexer. Whoever calls catches its panics and drops the row then.
    parser: TokenParser,
    /// What may come next.
    mask: Mask,
    vocabulary: Arc<Vocabulary>,
}

impl Row {
    /// The beginning of a grammar. Says why there is no first token.
    pub(crate) fn new(mut parser: TokenParser, vocabulary: Arc<Vocabulary>) -> Result<Self, String> {
        parser.start_without_prompt();
        let mask = Arc::clone(vocabulary.ends());
        let mut row = Self { parser, mask, vocabulary };
        row.look()?;
        Ok(row)
    }

    /// A row that begins where this one is and shares nothing with it that changes.
    pub(crate) fn fork(&self) -> Self {
        let vocabulary = Arc::clone(&self.vocabulary);
        Self { parser: self.parser.deep_clone(), mask: Arc::clone(&self.mask), vocabulary }
    }

    /// Ends, from another thread, what the row is computing; the row cannot go on then.
    pub(crate) fn canceller(&mut self) -> Canceller {
        Canceller(self.parser.enable_cancellation())
    }

    /// The tokens that the row consists of.
    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// What may come next.
    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Takes a token, which the mask allowed and which is no end. Says why the row cannot go on.
    pub(crate) fn advance(&mut self, token: u32) -> Result<(), String> {
        let taken_back = self.parser.consume_token(token).map_err(|error| told(&error))?;
        assert_eq!(taken_back, 0, "nothing is taken back where nobody said that it can be");
        self.parser.check_stop().map_err(|error| told(&error))?;
        self.look()
    }

    /// Finds out what may come next.
    fn look(&mut self) -> Result<(), String> {
        if self.parser.stopped() {
            self.mask = Arc::clone(self.vocabulary.ends());
            return Ok(());
        }
        let found = self.parser.compute_mask().map_err(|error| told(&error))?;
        if self.parser.parser.lexer_stats().num_bytes > ROW_BYTES_MAX {
            return Err(format!(
                "the grammar needs an automaton of more than {} MB for this answer",
                ROW_BYTES_MAX >> 20
            ));
        }
        let mask = self.vocabulary.mask(&found).ok_or(NOTHING_ALLOWED)?;
        if mask != self.mask {
            self.mask = mask;
        }
        Ok(())
    }
}

/// Ends what a row is computing.
#[derive(Debug)]
pub(crate) struct Canceller(CancellationHandle);

impl Canceller {
    pub(crate) fn cancel(&self) {
        self.0.cancel();
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Row").field("tokens", &self.parser.num_tokens()).finish_non_exhaustive()
    }
}

fn told(error: &impl fmt::Display) -> String {
    let said = brief(&error.to_string());
    // llguidance's word for it.
    if said == "NoExtensionBias" { NOTHING_ALLOWED.to_owned() } else { said }
}
