//! An answer's text, taken apart as it comes: content, reasoning and tool calls. It owns where a block may stand in an
//! answer; how calls are written is `tools`', how whitespace is laid out around blocks is `answer`'s, and it refuses to
//! know tokens and the wire.
//!
//! A block of reasoning stands where nothing but whitespace came since the answer or the last block began; a marker in
//! the midst of prose is prose. What can no longer become a marker goes out at once. A request without tools makes no
//! calls: their markup is content. When the answer breaks off inside of reasoning, all of it is reasoning.
//!
//! Invariants: the pieces, joined, are a function of the text, however it was cut; nothing of a text is lost but
//! markers, the markup of calls that are pieces, and whitespace beside blocks. Each character is read at most twice, with
//! work that the lengths of markers and names bound, so time is linear in the text.

pub mod format;
mod harmony;
mod marked;

use std::sync::Arc;

use crate::text::answer::{Answer, Blocks, Piece};
use crate::text::channel::format::{Format, Opening};
use crate::text::channel::harmony::Harmony;
use crate::text::channel::marked::Marked;
use crate::text::tools::{Tool, ToolFormat};

/// One answer being taken apart.
#[derive(Debug)]
pub struct Channel {
    /// Knows where in the answer we are.
    reader: Reader,
    /// What it has told apart.
    answer: Answer,
}

/// The two ways in which answers are laid out.
#[derive(Debug)]
enum Reader {
    /// Blocks between markers, in the midst of text.
    Marked(Marked),
    /// Messages with headers.
    Harmony(Harmony),
}

impl Channel {
    /// Takes an answer in `format` apart, to a request that offers `tools`, of which there may be none.
    #[must_use]
    pub fn new(format: Format, tools: Arc<[Tool]>, opening: Opening) -> Self {
        if format.is_harmony() {
            return Self {
                reader: Reader::Harmony(Harmony::new(tools, opening)),
                answer: Answer::new(Blocks::Anywhere),
            };
        }
        let calls = format.tools.filter(|_| !tools.is_empty()).map_or(&[][..], ToolFormat::openers);
        let blocks = if calls.is_empty() { Blocks::Before } else { Blocks::Anywhere };
        let mut answer = Answer::new(blocks);
        let reader = Reader::Marked(Marked::new(format.reasoning, calls, tools, opening, &mut answer));
        Self { reader, answer }
    }

    /// Takes the next piece of text and gives back what is known now.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        for character in text.chars() {
            match &mut self.reader {
                Reader::Marked(marked) => marked.step(character, &mut self.answer),
                Reader::Harmony(harmony) => harmony.step(character, &mut self.answer),
            }
        }
        self.answer.take()
    }

    /// Whether what comes now is reasoning, or closes it.
    #[must_use]
    pub fn is_reasoning(&self) -> bool {
        match &self.reader {
            Reader::Marked(marked) => marked.is_reasoning(),
            Reader::Harmony(harmony) => harmony.is_reasoning(),
        }
    }

    /// How many bytes at the end of the text are not decided yet: they may be markup, or whitespace that goes with it.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let held = match &self.reader {
            Reader::Marked(marked) => marked.held_bytes(),
            Reader::Harmony(harmony) => harmony.held_bytes(),
        };
        held + self.answer.held_bytes()
    }

    /// The text is over: gives back what was held. A call that has begun stays as far as it came; what only might have
    /// become one is content.
    #[must_use]
    pub fn finish(mut self) -> Vec<Piece> {
        match self.reader {
            Reader::Marked(marked) => marked.finish(&mut self.answer),
            Reader::Harmony(harmony) => harmony.finish(&mut self.answer),
        }
        self.answer.finish()
    }
}

#[cfg(test)]
mod tests;
