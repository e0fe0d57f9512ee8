//! Qwen3-Coder, Qwen 3.5 and those that took the format over (Nemotron 3, Step 3.5): tags down to the single argument,
//!
//! ```text
//! <tool_call>
//! <function=f>
//! <parameter=city>
//! Paris
//! </parameter>
//! </function>
//! </tool_call>
//! ```
//!
//! The outer tags may be missing, which the models are known for. A value is text; what JSON it is, the tool's schema
//! says. One line's end on either side belongs to the tags. Text goes out as it comes, other values when they are
//! complete. A value ends at the first `</parameter>`: the format has no way to write one inside of it.

use std::sync::Arc;

use serde_json::Value;

use crate::text::answer::Answer;
use crate::text::marker::Watch;
use crate::text::shape::Shape;
use crate::text::tools::json::{escaped, is_blank};
use crate::text::tools::schema::{Kind, is_text, kinds, properties, value, values};
use crate::text::tools::{
    Frame, NAME_BYTES_MAX, Opener, Parser, Place, Rest, Step, Tool, choice, grown, hermes, optional, quoted, sequence,
    text,
};

/// Before a function's name.
pub(crate) const FUNCTION: &str = "<function=";

/// Behind its arguments.
const FUNCTION_END: &str = "</function>";

/// Before an argument's name.
const PARAMETER: &str = "<parameter=";

/// Behind its value.
const PARAMETER_END: &str = "</parameter>";

pub(super) const OPENERS: [Opener; 2] = [
    Opener { text: hermes::OPEN, place: Place::Anywhere, parser: |tools| Box::new(Calls::new(tools, At::Open)) },
    Opener {
        text: FUNCTION,
        place: Place::Anywhere,
        parser: |tools| Box::new(Calls::new(tools, At::Name(String::new()))),
    },
];

pub(super) const FRAME: Frame = Frame { before: "", between: "\n", after: "" };

/// The shape of a call: arguments in the schema's order, those that are not required perhaps left out.
pub(super) fn call(tool: &Tool) -> Shape {
    let arguments = properties(&tool.parameters).into_iter().map(|(name, schema, required)| {
        let argument = sequence([text(format!("{PARAMETER}{name}>\n")), written(schema)]);
        if required { argument } else { optional(argument) }
    });
    let before = text(format!("{}\n{FUNCTION}{}>\n", hermes::OPEN, tool.name));
    let after = text(format!("{FUNCTION_END}\n{}", hermes::CLOSE));
    sequence(std::iter::once(before).chain(arguments).chain([after]))
}

/// The shape of a value and what closes it.
fn written(schema: Value) -> Shape {
    let end = format!("\n{PARAMETER_END}\n");
    match values(&schema) {
        _ if !is_text(&kinds(&schema)) => sequence([Shape::Json(schema), text(end)]),
        Some(values) => {
            choice(values.into_iter().filter_map(Value::as_str).map(|value| text(format!("{value}{end}"))).collect())
        }
        None => Shape::Until(end),
    }
}

/// Reads the calls of one pair of outer tags.
#[derive(Debug)]
struct Calls {
    /// What may be called.
    tools: Arc<[Tool]>,
    /// Where we are.
    at: At,
    /// The tool whose arguments are read, as its place among the tools.
    tool: usize,
    /// Arguments of it that the answer has; the first one begins the call.
    arguments: usize,
}

/// Where in calls we are.
#[derive(Debug)]
enum At {
    /// A function comes.
    Open,
    /// More of its tag, up to its name.
    OpenTag(String),
    /// More of its name.
    Name(String),
    /// An argument comes, or the function's end.
    Inside,
    /// More of the tag of one of them.
    InsideTag(String),
    /// More of an argument's name.
    Key(String),
    /// More of its value.
    Value(Argument),
    /// The outer closing tag comes, or another function.
    After,
    /// More of the tag of one of them.
    AfterTag(String),
}

impl Calls {
    fn new(tools: &Arc<[Tool]>, at: At) -> Self {
        Self { tools: tools.clone(), at, tool: 0, arguments: 0 }
    }

    fn goes_on(&mut self, next: At) -> Step {
        self.at = next;
        Step::Hold
    }

    /// A tag has grown to `tag`; what it is when it is complete.
    fn tag(&mut self, tag: String, tags: &[&str], stays: fn(String) -> At, answer: &mut Answer) -> Step {
        if !tags.iter().any(|whole| whole.starts_with(&tag)) {
            return Step::Refuse;
        }
        match tag.as_str() {
            FUNCTION => self.goes_on(At::Name(String::new())),
            PARAMETER => self.goes_on(At::Key(String::new())),
            FUNCTION_END => {
                let empty = if self.arguments == 0 { "{}" } else { "}" };
                self.begin(answer);
                answer.arguments(empty);
                self.at = At::After;
                Step::Commit
            }
            hermes::CLOSE => Step::End,
            _ => self.goes_on(stays(tag)),
        }
    }

    fn name(&mut self, name: &str) -> Step {
        let Some(tool) = self.tools.iter().position(|tool| tool.name == name) else { return Step::Refuse };
        (self.tool, self.arguments) = (tool, 0);
        self.goes_on(At::Inside)
    }

    fn key(&mut self, name: &str, answer: &mut Answer) -> Step {
        self.begin(answer);
        let separator = if self.arguments == 0 { "{" } else { ", " };
        answer.arguments(&format!("{separator}{}: ", quoted(name)));
        self.arguments += 1;
        let schema = &self.tools[self.tool].parameters["properties"][name];
        self.at = At::Value(Argument::new(kinds(schema), answer));
        Step::Commit
    }

    /// Begins the call, when it has no argument yet.
    fn begin(&mut self, answer: &mut Answer) {
        if self.arguments == 0 {
            answer.begin(&self.tools[self.tool].name);
        }
    }
}

impl Parser for Calls {
    fn step(&mut self, character: char, answer: &mut Answer) -> Step {
        match std::mem::replace(&mut self.at, At::Open) {
            at @ (At::Open | At::Inside | At::After) if is_blank(character) => self.goes_on(at),
            At::Open => self.tag(String::from(character), &[FUNCTION], At::OpenTag, answer),
            At::OpenTag(tag) => self.tag(grown(tag, character), &[FUNCTION], At::OpenTag, answer),
            At::Inside => self.tag(String::from(character), &[PARAMETER, FUNCTION_END], At::InsideTag, answer),
            At::InsideTag(tag) => self.tag(grown(tag, character), &[PARAMETER, FUNCTION_END], At::InsideTag, answer),
            At::After => self.tag(String::from(character), &[hermes::CLOSE, FUNCTION], At::AfterTag, answer),
            At::AfterTag(tag) => self.tag(grown(tag, character), &[hermes::CLOSE, FUNCTION], At::AfterTag, answer),
            At::Name(name) if character == '>' => self.name(&name),
            At::Key(name) if character == '>' => self.key(&name, answer),
            At::Name(name) | At::Key(name) if name.len() >= NAME_BYTES_MAX || character == '\n' => Step::Refuse,
            At::Name(name) => self.goes_on(At::Name(grown(name, character))),
            At::Key(name) => self.goes_on(At::Key(grown(name, character))),
            At::Value(mut argument) => {
                self.at = if argument.step(character, answer) { At::Inside } else { At::Value(argument) };
                Step::Commit
            }
        }
    }

    fn finish(&mut self, answer: &mut Answer) -> Rest {
        match &mut self.at {
            At::Value(argument) => {
                argument.finish(answer);
                Rest::Call
            }
            At::Inside | At::InsideTag(_) | At::Key(_) if self.arguments > 0 => Rest::Call,
            At::AfterTag(tag) if hermes::CLOSE.starts_with(tag.as_str()) => Rest::Call,
            At::Open | At::OpenTag(_) | At::Name(_) | At::Inside | At::InsideTag(_) | At::Key(_) => Rest::Content,
            At::After | At::AfterTag(_) => Rest::Content,
        }
    }
}

/// Reads an argument's value behind its opening tag.
#[derive(Debug)]
struct Argument {
    /// What it may be.
    kinds: Vec<Kind>,
    /// Looks for the closing tag.
    watch: Watch,
    /// What the answer does not have: the whole value, or a text's last line's end.
    text: String,
    /// The value's first character has come.
    opened: bool,
}

impl Argument {
    fn new(kinds: Vec<Kind>, answer: &mut Answer) -> Self {
        if is_text(&kinds) {
            answer.arguments("\"");
        }
        Self { kinds, watch: Watch::new(vec![PARAMETER_END]), text: String::new(), opened: false }
    }

    /// Takes the next character; whether it is the closing tag's last.
    fn step(&mut self, character: char, answer: &mut Answer) -> bool {
        let closed = self.watch.step(character, &mut self.text).is_some();
        self.open();
        if closed && self.text.ends_with('\n') {
            self.text.pop();
        }
        if is_text(&self.kinds) {
            let kept = if self.text.ends_with('\n') && !closed { "\n" } else { "" };
            answer.arguments(&escaped(&self.text[..self.text.len() - kept.len()]));
            kept.clone_into(&mut self.text);
            answer.arguments(if closed { "\"" } else { "" });
        } else if closed {
            answer.arguments(&value(&self.text, &self.kinds));
        }
        closed
    }

    /// The answer broke off: what came of the value is what there is.
    fn finish(&mut self, answer: &mut Answer) {
        self.text.push_str(&self.watch.release());
        self.open();
        answer.arguments(&if is_text(&self.kinds) { escaped(&self.text) } else { std::mem::take(&mut self.text) });
    }

    /// Drops the line's end that belongs to the opening tag.
    fn open(&mut self) {
        if !self.opened && !self.text.is_empty() {
            self.opened = true;
            if self.text.starts_with('\n') {
                self.text.remove(0);
            }
        }
    }
}
