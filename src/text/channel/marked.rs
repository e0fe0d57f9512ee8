//! Answers in which blocks stand between markers: reasoning in a pair of its own, calls behind what opens them. A text
//! that opens a call is held together with what follows until its parser is sure; when it refuses, all of it is content
//! and only the character that it refused is read again.

use std::sync::Arc;

use crate::text::answer::Answer;
use crate::text::channel::format::{Markers, Opening};
use crate::text::marker::Watch;
use crate::text::tools::{Opener, Parser, Place, Rest, Step, Tool};

/// Longest text that is held because it may become a call. The longest kind is one with its arguments before its name;
/// it bounds what a client that streams is kept waiting for.
const HELD_BYTES_MAX: usize = 256 << 10;

/// Reads an answer with markers.
#[derive(Debug)]
pub(super) struct Marked {
    /// The pair around reasoning.
    reasoning: Option<Markers>,
    /// What opens calls; empty when the request has no tools.
    openers: &'static [Opener],
    /// The request's tools.
    tools: Arc<[Tool]>,
    /// Looks for what opens a block.
    outside: Watch,
    /// Looks for what closes reasoning.
    inside: Watch,
    /// Where we are.
    at: At,
    /// Text that may become part of a call.
    held: String,
    /// Room for text between two markers.
    free: String,
}

/// Where in the answer we are.
#[derive(Debug)]
enum At {
    /// Outside of blocks.
    Content,
    /// In reasoning.
    Reasoning,
    /// Behind what opens a call.
    Call(Box<dyn Parser>),
}

impl Marked {
    /// Stands where the answer begins, which the prompt may have begun with a block of reasoning.
    pub fn new(
        reasoning: Option<Markers>,
        openers: &'static [Opener],
        tools: Arc<[Tool]>,
        opening: Opening,
        answer: &mut Answer,
    ) -> Self {
        let pair = reasoning.iter().map(|markers| markers.open);
        let outside = Watch::new(pair.chain(openers.iter().map(|opener| opener.text)).collect());
        let inside = Watch::new(reasoning.iter().flat_map(|markers| [markers.close, markers.open]).collect());
        let at = match opening {
            Opening::Reasoning => {
                answer.open_reasoning();
                At::Reasoning
            }
            Opening::Content => At::Content,
        };
        Self { reasoning, openers, tools, outside, inside, at, held: String::new(), free: String::new() }
    }

    /// Takes the next character.
    pub fn step(&mut self, character: char, answer: &mut Answer) {
        match &mut self.at {
            At::Content => self.content(character, answer),
            At::Reasoning => self.reasoning(character, answer),
            At::Call(parser) => {
                let step = if self.held.len() > HELD_BYTES_MAX { Step::Refuse } else { parser.step(character, answer) };
                match step {
                    Step::Hold => self.held.push(character),
                    Step::Commit => self.held.clear(),
                    Step::End => {
                        self.held.clear();
                        self.at = At::Content;
                    }
                    Step::Refuse => {
                        self.release(answer);
                        self.at = At::Content;
                        self.content(character, answer);
                    }
                    Step::Leave => {
                        self.at = At::Content;
                        let held = std::mem::take(&mut self.held);
                        for character in held.chars().chain([character]) {
                            self.content(character, answer);
                        }
                    }
                }
            }
        }
    }

    /// Whether what comes now is reasoning, or closes it.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.at, At::Reasoning)
    }

    /// Bytes of the text that are not decided yet.
    pub fn held_bytes(&self) -> usize {
        self.outside.held_bytes() + self.inside.held_bytes() + self.held.len()
    }

    /// The text is over.
    pub fn finish(mut self, answer: &mut Answer) {
        match &mut self.at {
            At::Content => answer.content(&self.outside.release()),
            At::Reasoning => answer.reasoning(&self.inside.release()),
            At::Call(parser) => match parser.finish(answer) {
                Rest::Call => {}
                Rest::Content => self.release(answer),
            },
        }
    }

    fn content(&mut self, character: char, answer: &mut Answer) {
        let found = self.outside.step(character, &mut self.free);
        answer.content(&self.free);
        self.free.clear();
        let Some(found) = found else { return };
        let opener = self.openers.iter().find(|opener| opener.text == found);
        match opener {
            Some(opener) if opener.place == Place::Anywhere || answer.is_at_edge() => {
                self.held.push_str(found);
                self.at = At::Call((opener.parser)(&self.tools));
            }
            None if answer.is_at_edge() => {
                answer.open_reasoning();
                self.at = At::Reasoning;
            }
            Some(_) | None => answer.content(found),
        }
    }

    fn reasoning(&mut self, character: char, answer: &mut Answer) {
        let found = self.inside.step(character, &mut self.free);
        answer.reasoning(&self.free);
        self.free.clear();
        let Some(found) = found else { return };
        if self.reasoning.is_some_and(|markers| markers.close == found) {
            answer.close_reasoning();
            self.at = At::Content;
        } else if answer.is_thinking() {
            // Models write the marker that the prompt ended with once more; deeper inside, it is what they think about.
            answer.reasoning(found);
        }
    }

    fn release(&mut self, answer: &mut Answer) {
        answer.content(&self.held);
        self.held.clear();
    }
}
