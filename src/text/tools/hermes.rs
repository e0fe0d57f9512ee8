//! Hermes, Qwen 2.5 and Qwen 3, and most models that were trained on their data: a JSON object between tags,
//! `<tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>`, once a call. Models put several objects between one pair
//! of tags, too, and leave the closing tag out at the end; both are read.

use crate::text::shape::Shape;
use crate::text::tools::objects::Objects;
use crate::text::tools::{Frame, Opener, Place, Tool, json_call, quoted};

/// What opens a call.
pub(crate) const OPEN: &str = "<tool_call>";

/// What closes it.
pub(crate) const CLOSE: &str = "</tool_call>";

pub(super) const MARKERS: [&str; 2] = [OPEN, CLOSE];

pub(super) const OPENERS: [Opener; 1] =
    [Opener { text: OPEN, place: Place::Anywhere, parser: |tools| Box::new(Objects::new(tools, None, CLOSE)) }];

pub(super) const FRAME: Frame = Frame { before: "", between: "\n", after: "" };

/// The shape of a call.
pub(super) fn call(tool: &Tool) -> Shape {
    let before = format!("{OPEN}\n{{\"name\": {}, \"arguments\": ", quoted(&tool.name));
    json_call(before, tool, "}\n</tool_call>")
}
