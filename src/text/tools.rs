//! Tool calls in the formats that models write them in: each format is a file with a parser that reads characters as
//! they come, and the shape that a call must have when one is required. It refuses to know where a call may stand in an
//! answer, which is `channel`'s, and what becomes of one, which is `http`'s.
//!
//! When a call is sure: its tool is one of the request's, and its arguments have opened as an object. Until then its
//! text is held, and comes out as content exactly as it was written when it turns out to be no call: not JSON, a tool
//! that nobody offered, no arguments. From then on arguments go out as they come. What breaks off stays as it is, and
//! nothing is made up to mend it; where sure arguments stop being JSON, the rest is content from that character on.
//!
//! Invariants: what a parser has made of a text depends on the text alone, not on how it was cut; a character is read at
//! most twice; a parser takes constant work a character.

pub mod gemma;
pub mod mistral;

mod envelope;
pub(crate) mod harmony;
pub(crate) mod hermes;
pub(crate) mod json;
mod llama;
mod objects;
pub(crate) mod qwen_coder;
mod schema;

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::Value;

use crate::text::answer::Answer;
use crate::text::shape::Shape;

/// Longest name of a tool that is looked for where nothing else bounds it. OpenAI allows 64 characters.
const NAME_BYTES_MAX: usize = 256;

/// A tool that a request offers.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// What the model calls it by.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// The calls that a request requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required<'a> {
    /// One call of any tool.
    One,
    /// One call or more, of any tools.
    Some,
    /// One call of this tool.
    Named(&'a str),
}

/// How a model writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// Llama 3.x: a bare JSON object.
    Llama,
    /// Hermes, Qwen 2.5 and Qwen 3: JSON objects between tags.
    Hermes,
    /// Qwen3-Coder, Qwen 3.5 and others: tags down to the single argument.
    QwenCoder,
    /// Mistral's, behind `[TOOL_CALLS]`.
    Mistral(mistral::Spelling),
    /// FunctionGemma's and Gemma 4's notation.
    Gemma(gemma::Spelling),
    /// GPT-OSS: messages to a tool.
    Harmony,
}

impl ToolFormat {
    /// The shape of what must follow reasoning, from the answer's first character on where there is none. `tools` are
    /// the request's and hold the one that is named; no tools leave no choice.
    #[must_use]
    pub fn shape(self, tools: &[Tool], required: Required<'_>) -> Shape {
        let offered = tools.iter().filter(|tool| match required {
            Required::One | Required::Some => true,
            Required::Named(name) => tool.name == name,
        });
        let (call, frame): (fn(&Tool) -> Shape, Frame) = match self {
            Self::Llama => (llama::call, llama::FRAME),
            Self::Hermes => (hermes::call, hermes::FRAME),
            Self::QwenCoder => (qwen_coder::call, qwen_coder::FRAME),
            Self::Mistral(mistral::Spelling::List) => (mistral::listed, mistral::LIST_FRAME),
            Self::Mistral(mistral::Spelling::Named) => (mistral::named, mistral::NAMED_FRAME),
            Self::Gemma(gemma::Spelling::FunctionGemma) => (gemma::function_gemma, gemma::FRAME),
            Self::Gemma(gemma::Spelling::Gemma4) => (gemma::gemma4, gemma::FRAME),
            Self::Harmony => return harmony::shape(choice(offered.map(harmony::call).collect())),
        };
        let one = choice(offered.map(call).collect());
        let calls = match required {
            Required::One | Required::Named(_) => one,
            Required::Some => {
                Shape::Repeat { item: Box::new(one), separator: frame.between.to_owned(), min: 1, max: None }
            }
        };
        sequence([text(frame.before), calls, text(frame.after)])
    }

    /// Control tokens whose text must be seen for calls to be found.
    pub(crate) fn control_markers(self) -> &'static [&'static str] {
        match self {
            Self::Llama => &llama::MARKERS,
            Self::Hermes | Self::QwenCoder => &hermes::MARKERS,
            Self::Mistral(_) => &mistral::MARKERS,
            Self::Gemma(gemma::Spelling::FunctionGemma) => &gemma::FUNCTION_GEMMA_MARKERS,
            Self::Gemma(gemma::Spelling::Gemma4) => &gemma::GEMMA4_MARKERS,
            Self::Harmony => &harmony::MARKERS,
        }
    }

    /// What opens a call in the midst of text. Harmony's calls are messages, which `channel` tells apart itself.
    pub(crate) fn openers(self) -> &'static [Opener] {
        match self {
            Self::Llama => &llama::OPENERS,
            Self::Hermes => &hermes::OPENERS,
            Self::QwenCoder => &qwen_coder::OPENERS,
            Self::Mistral(_) => &mistral::OPENERS,
            Self::Gemma(gemma::Spelling::FunctionGemma) => &gemma::FUNCTION_GEMMA_OPENERS,
            Self::Gemma(gemma::Spelling::Gemma4) => &gemma::GEMMA4_OPENERS,
            Self::Harmony => &[],
        }
    }
}

/// A text that opens a call, and the parser of what follows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opener {
    /// The text.
    pub text: &'static str,
    /// Where it opens one.
    pub place: Place,
    /// A parser that stands behind the text.
    pub parser: fn(&Arc<[Tool]>) -> Box<dyn Parser>,
}

/// Where a text opens a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Anywhere.
    Anywhere,
    /// Where nothing but whitespace came since the answer or the last block began.
    Edge,
}

/// What a parser makes of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It may belong to a call; it is held.
    Hold,
    /// It belongs to a call for sure, and so does what was held.
    Commit,
    /// The same, and the calls are over.
    End,
    /// It belongs to no call, and neither does what was held.
    Refuse,
    /// The calls were over with the last one; what was held since then, and this, may be anything.
    Leave,
}

/// Where text belongs that was held when the answer broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// To a call that has begun: it is the part of its markup that was still to say something.
    Call,
    /// To the content.
    Content,
}

/// Reads calls behind an opener.
pub(crate) trait Parser: Debug + Send {
    /// Takes the next character. Called no more after [`Step::End`], [`Step::Refuse`] or [`Step::Leave`].
    fn step(&mut self, character: char, answer: &mut Answer) -> Step;

    /// The text is over: puts out what is left of the arguments of a call that has begun.
    fn finish(&mut self, answer: &mut Answer) -> Rest;
}

/// What stands around calls and between them.
struct Frame {
    before: &'static str,
    between: &'static str,
    after: &'static str,
}

/// Whether a tool of this name was offered.
pub(crate) fn offers(tools: &[Tool], name: &str) -> bool {
    tools.iter().any(|tool| tool.name == name)
}

/// Exactly this text.
fn text(text: impl Into<String>) -> Shape {
    Shape::Literal(text.into())
}

/// One after the other; what is empty asks for nothing and is left out.
fn sequence(parts: impl IntoIterator<Item = Shape>) -> Shape {
    let is_empty = |part: &Shape| match part {
        Shape::Literal(text) => text.is_empty(),
        Shape::Sequence(parts) => parts.is_empty(),
        Shape::Json(_) | Shape::Until(_) | Shape::Choice(_) | Shape::Repeat { .. } => false,
    };
    Shape::Sequence(parts.into_iter().filter(|part| !is_empty(part)).collect())
}

/// This, or nothing.
fn optional(item: Shape) -> Shape {
    Shape::Repeat { item: Box::new(item), separator: String::new(), min: 0, max: Some(1) }
}

/// One of these.
fn choice(mut shapes: Vec<Shape>) -> Shape {
    if shapes.len() == 1 { shapes.remove(0) } else { Shape::Choice(shapes) }
}

/// A call that is JSON between two texts: `before` and `after` the arguments.
fn json_call(before: String, tool: &Tool, after: &str) -> Shape {
    sequence([text(before), Shape::Json(schema::object(&tool.parameters)), text(after)])
}

/// A name as JSON.
fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

fn grown(mut text: String, character: char) -> String {
    text.push(character);
    text
}
