//! Mistral: behind `[TOOL_CALLS]`, the older models (Mistral 7B v0.3 to Nemo) write a JSON list,
//! `[TOOL_CALLS][{"name": "f", "arguments": {…}}]`, and those since Small 3.1 the name itself,
//! `[TOOL_CALLS]f[ARGS]{…}`, with the marker before each call, at times with `[CALL_ID]…` between or without `[ARGS]`.
//! The template says which spelling a model was taught, and calls are asked for in that one; all are read.

use std::sync::Arc;

use crate::text::answer::Answer;
use crate::text::marker::Watch;
use crate::text::shape::Shape;
use crate::text::tools::json::{Scan, Scanner, is_blank};
use crate::text::tools::objects::Objects;
use crate::text::tools::{Frame, NAME_BYTES_MAX, Opener, Parser, Place, Rest, Step, Tool, json_call, offers, quoted};

/// What opens calls.
const OPEN: &str = "[TOOL_CALLS]";

/// Before the arguments of a call that names its tool.
pub(crate) const ARGUMENTS: &str = "[ARGS]";

/// Before a call's id.
const CALL_ID: &str = "[CALL_ID]";

pub(super) const MARKERS: [&str; 3] = [OPEN, ARGUMENTS, CALL_ID];

pub(super) const OPENERS: [Opener; 1] =
    [Opener { text: OPEN, place: Place::Anywhere, parser: |tools| Box::new(Calls::new(tools)) }];

pub(super) const LIST_FRAME: Frame = Frame { before: "[TOOL_CALLS][", between: ", ", after: "]" };

pub(super) const NAMED_FRAME: Frame = Frame { before: "", between: "", after: "" };

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// A list of objects.
    List,
    /// A name and its arguments.
    Named,
}

/// The shape of a call in the list.
pub(super) fn listed(tool: &Tool) -> Shape {
    json_call(format!("{{\"name\": {}, \"arguments\": ", quoted(&tool.name)), tool, "}")
}

/// The shape of a call that names its tool.
pub(super) fn named(tool: &Tool) -> Shape {
    json_call(format!("{OPEN}{}{ARGUMENTS}", tool.name), tool, "")
}

/// Reads calls behind `[TOOL_CALLS]`.
#[derive(Debug)]
struct Calls {
    /// What may be called.
    tools: Arc<[Tool]>,
    /// Where we are.
    at: At,
}

/// Where in calls we are.
#[derive(Debug)]
enum At {
    /// Objects come, or a name.
    Open,
    /// Among objects.
    Objects(Objects),
    /// In what stands before the arguments of a call that names its tool.
    Head(Head),
    /// Behind `[ARGS]`, where the arguments of this tool come.
    Before(String),
    /// More of the arguments.
    Arguments(Scanner),
}

/// What stands before arguments: a name, and perhaps an id.
#[derive(Debug)]
struct Head {
    /// Looks for what ends the name.
    watch: Watch,
    /// The name, once an id follows it.
    name: Option<String>,
    /// The name or the id so far.
    text: String,
}

impl Calls {
    fn new(tools: &Arc<[Tool]>) -> Self {
        Self { tools: tools.clone(), at: At::Open }
    }

    fn goes_on(&mut self, next: At) -> Step {
        self.at = next;
        Step::Hold
    }

    fn head(&mut self, mut head: Head, character: char, answer: &mut Answer) -> Step {
        let found = head.watch.step(character, &mut head.text);
        let Some(marker) = found else {
            let is_name = head.text.chars().all(|character| character.is_alphanumeric() || "_-.".contains(character));
            return if is_name { self.goes_on(At::Head(head)) } else { Step::Refuse };
        };
        if marker == CALL_ID && head.name.is_none() {
            head.name = Some(std::mem::take(&mut head.text));
            return self.goes_on(At::Head(head));
        }
        let name = head.name.unwrap_or(head.text);
        match marker {
            _ if !offers(&self.tools, &name) => Step::Refuse,
            ARGUMENTS => self.goes_on(At::Before(name)),
            "{" => self.begin(&name, answer),
            _ => Step::Refuse,
        }
    }

    fn begin(&mut self, name: &str, answer: &mut Answer) -> Step {
        answer.begin(name);
        answer.arguments("{");
        self.at = At::Arguments(Scanner::new());
        Step::Commit
    }
}

impl Parser for Calls {
    fn step(&mut self, character: char, answer: &mut Answer) -> Step {
        match std::mem::replace(&mut self.at, At::Open) {
            At::Open if is_blank(character) => Step::Hold,
            At::Open if character == '[' => self.goes_on(At::Objects(Objects::new(&self.tools, Some(','), "]"))),
            At::Open if character == '{' => self.goes_on(At::Objects(Objects::new(&self.tools, None, "").opened())),
            At::Open => self.head(Head::new(), character, answer),
            At::Head(head) if head.text.len() > NAME_BYTES_MAX => Step::Refuse,
            At::Head(head) => self.head(head, character, answer),
            At::Objects(mut objects) => {
                let step = objects.step(character, answer);
                self.at = At::Objects(objects);
                step
            }
            At::Before(name) if is_blank(character) => self.goes_on(At::Before(name)),
            At::Before(name) if character == '{' => self.begin(&name, answer),
            At::Before(_) => Step::Refuse,
            At::Arguments(mut scanner) => {
                let scan = scanner.step(character);
                if scan == Scan::Bad {
                    return Step::Refuse;
                }
                answer.arguments(character.encode_utf8(&mut [0; 4]));
                self.at = At::Arguments(scanner);
                if scan == Scan::Done { Step::End } else { Step::Commit }
            }
        }
    }

    fn finish(&mut self, answer: &mut Answer) -> Rest {
        match &mut self.at {
            At::Objects(objects) => objects.finish(answer),
            At::Arguments(_) => Rest::Call,
            At::Open | At::Head(_) | At::Before(_) => Rest::Content,
        }
    }
}

impl Head {
    fn new() -> Self {
        Self { watch: Watch::new(vec![ARGUMENTS, CALL_ID, "{"]), name: None, text: String::new() }
    }
}
