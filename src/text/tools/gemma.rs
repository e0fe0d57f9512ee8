//! Gemma: `<start_function_call>call:f{city:<escape>Paris<escape>,days:3}<end_function_call>` as FunctionGemma's template
//! prints it, and `<|tool_call>call:f{city:<|"|>Paris<|"|>,days:3}<tool_call|>` as Gemma 4's does: one notation with
//! other marks. Strings stand between two marks, keys stand bare (or between marks), everything else is as in JSON.
//! Gemma 1 to 3 were published with templates that know no tools, and their documentation leaves the format to whoever
//! writes the prompt, so there is nothing to read.
//!
//! Arguments are written anew as JSON, and go out as they come. A bare value that is no JSON literal is a string: the
//! models forget marks, and nothing else can be meant.

mod shape;

use std::sync::Arc;

use crate::text::answer::Answer;
use crate::text::marker::Watch;
use crate::text::shape::Shape;
use crate::text::tools::json::{Bracket, escaped, is_blank, literal};
use crate::text::tools::{Frame, NAME_BYTES_MAX, Opener, Parser, Place, Rest, Step, Tool, grown, offers, quoted};

/// Deepest nesting, as in JSON.
const DEPTH_MAX: usize = 127;

/// Before a function's name.
const CALL: &str = "call:";

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// FunctionGemma's.
    FunctionGemma,
    /// Gemma 4's.
    Gemma4,
}

/// The texts in which the spellings differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Marks {
    /// Before a call.
    pub open: &'static str,
    /// Behind it.
    close: &'static str,
    /// On either side of a string.
    quote: &'static str,
}

/// FunctionGemma's.
pub(crate) const FUNCTION_GEMMA: Marks =
    Marks { open: "<start_function_call>", close: "<end_function_call>", quote: "<escape>" };

/// Gemma 4's.
pub(crate) const GEMMA4: Marks = Marks { open: "<|tool_call>", close: "<tool_call|>", quote: "<|\"|>" };

pub(super) const FUNCTION_GEMMA_MARKERS: [&str; 3] = [FUNCTION_GEMMA.open, FUNCTION_GEMMA.close, FUNCTION_GEMMA.quote];

pub(super) const GEMMA4_MARKERS: [&str; 3] = [GEMMA4.open, GEMMA4.close, GEMMA4.quote];

pub(super) const FUNCTION_GEMMA_OPENERS: [Opener; 1] = [Opener {
    text: FUNCTION_GEMMA.open,
    place: Place::Anywhere,
    parser: |tools| Box::new(Call::new(tools, FUNCTION_GEMMA)),
}];

pub(super) const GEMMA4_OPENERS: [Opener; 1] =
    [Opener { text: GEMMA4.open, place: Place::Anywhere, parser: |tools| Box::new(Call::new(tools, GEMMA4)) }];

pub(super) const FRAME: Frame = Frame { before: "", between: "", after: "" };

/// The shape of a call in FunctionGemma's spelling.
pub(super) fn function_gemma(tool: &Tool) -> Shape {
    shape::call(tool, FUNCTION_GEMMA)
}

/// The shape of a call in Gemma 4's spelling.
pub(super) fn gemma4(tool: &Tool) -> Shape {
    shape::call(tool, GEMMA4)
}

/// Reads a call behind what opens it.
#[derive(Debug)]
struct Call {
    /// What may be called.
    tools: Arc<[Tool]>,
    /// The texts that are looked for.
    marks: Marks,
    /// The lists and objects around, the innermost last.
    open: Vec<Bracket>,
    /// Where we are.
    at: At,
}

/// Where in a call we are.
#[derive(Debug)]
enum At {
    /// In `call:`, with this to come.
    Prefix(&'static str),
    /// More of the function's name.
    Name(String),
    /// A key, or `}`.
    FirstKey,
    /// A key.
    Key,
    /// More of a bare key.
    BareKey(String),
    /// `:` comes.
    Colon,
    /// A value, or `]`.
    FirstItem,
    /// A value.
    Value,
    /// More of a bare value.
    Bare(String),
    /// In the mark that opens a string, with this to come.
    Quote(Role, &'static str),
    /// More of a string.
    Text(Role, Watch),
    /// `,` comes, or what closes the innermost bracket.
    Next,
    /// The call is complete; its closing mark comes.
    After,
    /// In the closing mark, with this to come.
    Closing(&'static str),
}

/// What a string is.
#[derive(Debug, Clone, Copy)]
enum Role {
    Key,
    Value,
}

impl Call {
    fn new(tools: &Arc<[Tool]>, marks: Marks) -> Self {
        Self { tools: tools.clone(), marks, open: Vec::new(), at: At::Prefix(CALL) }
    }

    fn goes_on(&mut self, next: At) -> Step {
        self.at = next;
        Step::Hold
    }

    /// Puts out more of the arguments.
    fn puts(&mut self, json: &str, next: At, answer: &mut Answer) -> Step {
        answer.arguments(json);
        self.at = next;
        Step::Commit
    }

    fn opens(&mut self, bracket: Bracket, answer: &mut Answer) -> Step {
        if self.open.len() == DEPTH_MAX {
            return Step::Refuse;
        }
        self.open.push(bracket);
        match bracket {
            Bracket::List => self.puts("[", At::FirstItem, answer),
            Bracket::Object => self.puts("{", At::FirstKey, answer),
        }
    }

    fn closes(&mut self, bracket: Bracket, answer: &mut Answer) -> Step {
        if self.open.pop() != Some(bracket) {
            return Step::Refuse;
        }
        let next = if self.open.is_empty() { At::After } else { At::Next };
        self.puts(if bracket == Bracket::List { "]" } else { "}" }, next, answer)
    }

    fn name(&mut self, name: String, character: char, answer: &mut Answer) -> Step {
        match character {
            '{' if offers(&self.tools, &name) => {
                answer.begin(&name);
                self.opens(Bracket::Object, answer)
            }
            '{' => Step::Refuse,
            _ if name.len() >= NAME_BYTES_MAX || is_blank(character) => Step::Refuse,
            _ => self.goes_on(At::Name(grown(name, character))),
        }
    }

    fn key(&mut self, key: String, character: char, answer: &mut Answer) -> Step {
        match character {
            ':' => self.puts(&format!("{}: ", quoted(key.trim_ascii_end())), At::Value, answer),
            '{' | '}' | '[' | ']' | ',' | '\n' => Step::Refuse,
            _ if key.len() >= NAME_BYTES_MAX => Step::Refuse,
            _ => self.goes_on(At::BareKey(grown(key, character))),
        }
    }

    fn value(&mut self, character: char, answer: &mut Answer) -> Step {
        match character {
            '{' => self.opens(Bracket::Object, answer),
            '[' => self.opens(Bracket::List, answer),
            '}' | ']' | ',' => Step::Refuse,
            _ => match self.marks.quote.strip_prefix(character) {
                Some(rest) => self.goes_on(At::Quote(Role::Value, rest)),
                None => self.bare(String::new(), character, answer),
            },
        }
    }

    fn bare(&mut self, text: String, character: char, answer: &mut Answer) -> Step {
        if !matches!(character, ',' | '}' | ']') {
            // Held here and not by the reader: when the answer breaks off, it is a part of the arguments.
            self.at = At::Bare(grown(text, character));
            return Step::Commit;
        }
        self.puts(&json(&text), At::Next, answer);
        self.next(character, answer)
    }

    fn next(&mut self, character: char, answer: &mut Answer) -> Step {
        match (character, self.open.last()) {
            (',', Some(Bracket::List)) => self.puts(", ", At::Value, answer),
            (',', Some(Bracket::Object)) => self.puts(", ", At::Key, answer),
            (']', _) => self.closes(Bracket::List, answer),
            ('}', _) => self.closes(Bracket::Object, answer),
            _ => Step::Refuse,
        }
    }

    fn quote(&mut self, role: Role, rest: &'static str, character: char, answer: &mut Answer) -> Step {
        match (rest.strip_prefix(character), role) {
            (Some(""), _) => self.puts("\"", At::Text(role, Watch::new(vec![self.marks.quote])), answer),
            (Some(rest), _) => self.goes_on(At::Quote(role, rest)),
            (None, Role::Value) => {
                let begun = self.marks.quote.len() - rest.len();
                self.bare(self.marks.quote[..begun].to_owned(), character, answer)
            }
            (None, Role::Key) => Step::Refuse,
        }
    }

    fn closing(&mut self, rest: &'static str, character: char) -> Step {
        match rest.strip_prefix(character) {
            Some("") => Step::End,
            Some(rest) => self.goes_on(At::Closing(rest)),
            None => Step::Refuse,
        }
    }

    fn text(&mut self, role: Role, mut watch: Watch, character: char, answer: &mut Answer) -> Step {
        let mut free = String::new();
        let closed = watch.step(character, &mut free).is_some();
        answer.arguments(&escaped(&free));
        let next = match (closed, role) {
            (false, _) => At::Text(role, watch),
            (true, Role::Key) => At::Colon,
            (true, Role::Value) => At::Next,
        };
        self.puts(if closed { "\"" } else { "" }, next, answer)
    }
}

impl Parser for Call {
    fn step(&mut self, character: char, answer: &mut Answer) -> Step {
        match std::mem::replace(&mut self.at, At::After) {
            at @ (At::FirstKey | At::Key | At::Colon | At::FirstItem | At::Value | At::Next | At::After)
                if is_blank(character) =>
            {
                self.goes_on(at)
            }
            At::Prefix(rest) => match rest.strip_prefix(character) {
                Some("") => self.goes_on(At::Name(String::new())),
                Some(rest) => self.goes_on(At::Prefix(rest)),
                None => Step::Refuse,
            },
            At::Name(name) => self.name(name, character, answer),
            At::FirstKey if character == '}' => self.closes(Bracket::Object, answer),
            At::FirstKey | At::Key => match self.marks.quote.strip_prefix(character) {
                Some(rest) => self.goes_on(At::Quote(Role::Key, rest)),
                None => self.key(String::new(), character, answer),
            },
            At::BareKey(key) => self.key(key, character, answer),
            At::Colon if character == ':' => self.puts(": ", At::Value, answer),
            At::Colon => Step::Refuse,
            At::FirstItem if character == ']' => self.closes(Bracket::List, answer),
            At::FirstItem | At::Value => self.value(character, answer),
            At::Bare(text) => self.bare(text, character, answer),
            At::Quote(role, rest) => self.quote(role, rest, character, answer),
            At::Text(role, watch) => self.text(role, watch, character, answer),
            At::Next => self.next(character, answer),
            At::After => self.closing(self.marks.close, character),
            At::Closing(rest) => self.closing(rest, character),
        }
    }

    fn finish(&mut self, answer: &mut Answer) -> Rest {
        match &mut self.at {
            At::Prefix(_) | At::Name(_) | At::After => Rest::Content,
            At::Text(_, watch) => {
                answer.arguments(&escaped(&watch.release()));
                Rest::Call
            }
            At::Bare(text) => {
                answer.arguments(text);
                Rest::Call
            }
            At::FirstKey | At::Key | At::BareKey(_) | At::Colon | At::FirstItem | At::Value => Rest::Call,
            At::Quote(..) | At::Next | At::Closing(_) => Rest::Call,
        }
    }
}

/// The JSON of a bare value.
fn json(bare: &str) -> String {
    let text = literal(bare);
    if serde_json::from_str::<serde_json::Value>(text).is_ok() { text.to_owned() } else { quoted(bare.trim_ascii()) }
}
