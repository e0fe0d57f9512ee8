//! Answers that are rows of Harmony messages. Each has a header, and the header says what its text is; `tools::harmony`
//! reads headers. Text that no header announces, and messages to tools that nobody offered, are content as they came,
//! up to the next header.
//!
//! A text whose end was forgotten ends where the next header begins. A header that was cut off is dropped, unless it
//! addresses a tool: then the client sees that the answer broke off in a call.

use std::sync::Arc;

use crate::text::answer::Answer;
use crate::text::channel::format::Opening;
use crate::text::marker::Watch;
use crate::text::tools::Tool;
use crate::text::tools::harmony::{CHANNEL, ENDS, MESSAGE, Purpose, START, is_idle, may_become_a_header, purpose};
use crate::text::tools::json::{Scan, Scanner, is_blank};

/// Longest header.
const HEADER_BYTES_MAX: usize = 512;

/// Reads a row of messages.
#[derive(Debug)]
pub(super) struct Harmony {
    /// The request's tools.
    tools: Arc<[Tool]>,
    /// Where we are.
    at: At,
    /// Looks for what ends a message.
    inside: Watch,
    /// Looks for what begins one.
    outside: Watch,
    /// Room for text between two markers.
    free: String,
}

/// Where in the row we are.
#[derive(Debug)]
enum At {
    /// In a header, of which this has come. The prompt holds the beginning of the first.
    Header(String),
    /// In a message that the user reads.
    Content,
    /// In a message of reasoning.
    Reasoning,
    /// In a message to a tool, before its arguments: the tool, and all that has come.
    Call(String, String),
    /// In its arguments.
    Arguments(Scanner),
    /// In text that no header announces.
    Prose,
}

impl Harmony {
    /// Stands where the answer begins, in the first header or in reasoning.
    pub fn new(tools: Arc<[Tool]>, opening: Opening) -> Self {
        let inside = Watch::new(vec![ENDS[0], ENDS[1], ENDS[2], START, CHANNEL]);
        let at = match opening {
            Opening::Reasoning => At::Reasoning,
            Opening::Content => At::Header(String::new()),
        };
        Self { tools, at, inside, outside: Watch::new(vec![START, CHANNEL]), free: String::new() }
    }

    /// Takes the next character.
    pub fn step(&mut self, character: char, answer: &mut Answer) {
        self.at = match std::mem::replace(&mut self.at, At::Prose) {
            At::Header(header) => self.header(header, character, answer),
            At::Content => match self.text(character, Answer::content, answer) {
                Some(next) => next,
                None => At::Content,
            },
            At::Reasoning => match self.text(character, Answer::reasoning, answer) {
                Some(next) => {
                    answer.close_reasoning();
                    next
                }
                None => At::Reasoning,
            },
            At::Call(name, mut held) if is_blank(character) && held.len() <= HEADER_BYTES_MAX => {
                held.push(character);
                At::Call(name, held)
            }
            At::Call(name, _) if character == '{' => {
                answer.begin(&name);
                answer.arguments("{");
                At::Arguments(Scanner::new())
            }
            At::Call(_, held) => {
                answer.content(&held);
                self.prose(character, answer)
            }
            At::Arguments(mut scanner) => match scanner.step(character) {
                Scan::Bad => self.prose(character, answer),
                scan => {
                    answer.arguments(character.encode_utf8(&mut [0; 4]));
                    if scan == Scan::Done { At::Header(String::new()) } else { At::Arguments(scanner) }
                }
            },
            At::Prose => self.prose(character, answer),
        };
    }

    /// Whether what comes now is reasoning, or closes it.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.at, At::Reasoning)
    }

    /// Bytes of the text that are not decided yet.
    pub fn held_bytes(&self) -> usize {
        let held = match &self.at {
            At::Header(held) | At::Call(_, held) => held.len(),
            At::Content | At::Reasoning | At::Arguments(_) | At::Prose => 0,
        };
        held + self.inside.held_bytes() + self.outside.held_bytes()
    }

    /// The text is over.
    pub fn finish(mut self, answer: &mut Answer) {
        match self.at {
            At::Header(held) if is_idle(&held) => {}
            At::Header(held) | At::Call(_, held) => answer.content(&held),
            At::Content => answer.content(&self.inside.release()),
            At::Reasoning => answer.reasoning(&self.inside.release()),
            At::Arguments(_) => {}
            At::Prose => answer.content(&self.outside.release()),
        }
    }

    fn header(&mut self, mut header: String, character: char, answer: &mut Answer) -> At {
        header.push(character);
        if !header.ends_with(MESSAGE) {
            if header.len() <= HEADER_BYTES_MAX && may_become_a_header(&header) {
                return At::Header(header);
            }
            header.pop();
            answer.content(&header);
            return self.prose(character, answer);
        }
        match purpose(&header, &self.tools) {
            Some(Purpose::Content) => {
                answer.open_message();
                At::Content
            }
            Some(Purpose::Reasoning) => {
                answer.open_reasoning();
                At::Reasoning
            }
            Some(Purpose::Call(name)) => At::Call(name, header),
            None => {
                answer.content(&header);
                At::Prose
            }
        }
    }

    /// Reads on in a message, and says where it goes on when that is over.
    fn text(&mut self, character: char, take: fn(&mut Answer, &str), answer: &mut Answer) -> Option<At> {
        let found = self.inside.step(character, &mut self.free);
        take(answer, &self.free);
        self.free.clear();
        let next = found?;
        Some(At::Header(if ENDS.contains(&next) { String::new() } else { next.to_owned() }))
    }

    fn prose(&mut self, character: char, answer: &mut Answer) -> At {
        let found = self.outside.step(character, &mut self.free);
        answer.content(&self.free);
        self.free.clear();
        found.map_or(At::Prose, |marker| At::Header(marker.to_owned()))
    }
}
