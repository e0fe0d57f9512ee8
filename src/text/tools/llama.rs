//! Llama 3.x: `{"name": "f", "parameters": {…}}` where an answer begins, or behind `<|python_tag|>` anywhere. Several
//! calls stand behind one another with `;` or whitespace between, though the models were taught one. The calls of
//! built-in tools (`brave_search.call(query="…")`) are not JSON and stay content.
//!
//! A bare object may as well be an answer in JSON; it is content as soon as it has a key that a call has not.

use crate::text::shape::Shape;
use crate::text::tools::objects::Objects;
use crate::text::tools::{Frame, Opener, Place, Tool, json_call, quoted};

/// What opens code and calls.
const PYTHON: &str = "<|python_tag|>";

/// Between two calls.
const SEPARATOR: char = ';';

pub(super) const MARKERS: [&str; 1] = [PYTHON];

pub(super) const OPENERS: [Opener; 2] = [
    Opener {
        text: "{",
        place: Place::Edge,
        parser: |tools| Box::new(Objects::new(tools, Some(SEPARATOR), "").opened()),
    },
    Opener { text: PYTHON, place: Place::Anywhere, parser: |tools| Box::new(Objects::new(tools, Some(SEPARATOR), "")) },
];

pub(super) const FRAME: Frame = Frame { before: "", between: "; ", after: "" };

/// The shape of a call.
pub(super) fn call(tool: &Tool) -> Shape {
    json_call(format!("{{\"name\": {}, \"parameters\": ", quoted(&tool.name)), tool, "}")
}
