//! What a text must look like, in words that neither a wire format nor a grammar engine owns: `text::tools` says the shape
//! of a tool call in a model's own format, `grammar` makes token masks of it.

use serde_json::Value;

/// A text that is required of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Exactly this text.
    Literal(String),
    /// A JSON value that this JSON schema admits.
    Json(Value),
    /// Any text before the first occurrence of this one, and then that.
    Until(String),
    /// One after the other.
    Sequence(Vec<Shape>),
    /// One of these.
    Choice(Vec<Shape>),
    /// `min` to `max` times, with `separator` between two; `max` of `None` is without bound.
    Repeat {
        /// What is repeated.
        item: Box<Shape>,
        /// Between two of them; may be empty.
        separator: String,
        /// At least this often.
        min: u32,
        /// At most this often.
        max: Option<u32>,
    },
}
