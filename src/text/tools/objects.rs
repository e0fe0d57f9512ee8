//! Calls that are JSON objects, one behind the other, up to a text that closes them: what Hermes, Llama and the older
//! Mistral models have in common. It reads generously: whitespace may stand anywhere, and a separator may be missing.

use std::sync::Arc;

use crate::text::answer::Answer;
use crate::text::tools::envelope::Envelope;
use crate::text::tools::json::is_blank;
use crate::text::tools::{Parser, Rest, Step, Tool};

/// Reads calls behind what opens them.
#[derive(Debug)]
pub(crate) struct Objects {
    /// What may be called.
    tools: Arc<[Tool]>,
    /// What may stand between two calls.
    separator: Option<char>,
    /// What closes them; where it is empty, they end with the last one.
    close: &'static str,
    /// A call is complete.
    called: bool,
    /// Where we are.
    at: At,
}

/// Where among calls we are.
#[derive(Debug)]
enum At {
    /// A call comes, or what closes them.
    Between,
    /// In a call.
    Call(Envelope),
    /// In what closes them, with this to come.
    Closing(&'static str),
}

impl Objects {
    /// Stands where the first call's `{` comes.
    pub fn new(tools: &Arc<[Tool]>, separator: Option<char>, close: &'static str) -> Self {
        Self { tools: tools.clone(), separator, close, called: false, at: At::Between }
    }

    /// The same, behind that `{`.
    pub fn opened(mut self) -> Self {
        self.at = At::Call(Envelope::new(&self.tools));
        self
    }
}

impl Parser for Objects {
    fn step(&mut self, character: char, answer: &mut Answer) -> Step {
        let close = match &mut self.at {
            At::Call(envelope) => {
                let step = envelope.step(character, answer);
                if step != Step::End {
                    return step;
                }
                self.called = true;
                self.at = At::Between;
                return Step::Commit;
            }
            At::Between if is_blank(character) => return Step::Hold,
            At::Between if character == '{' => {
                self.at = At::Call(Envelope::new(&self.tools));
                return Step::Hold;
            }
            At::Between if !self.called => return Step::Refuse,
            At::Between if self.separator == Some(character) => return Step::Hold,
            At::Between => self.close,
            At::Closing(close) => close,
        };
        match close.strip_prefix(character) {
            Some("") => Step::End,
            Some(rest) => {
                self.at = At::Closing(rest);
                Step::Hold
            }
            // Behind a call: a block of another kind may stand where the closing text was left out.
            None => Step::Leave,
        }
    }

    fn finish(&mut self, _: &mut Answer) -> Rest {
        match &self.at {
            At::Call(envelope) if envelope.is_begun() => Rest::Call,
            At::Closing(_) => Rest::Call,
            At::Call(_) | At::Between => Rest::Content,
        }
    }
}
