//! The shape of a call in Gemma's notation, from a tool's JSON schema. It knows types, values, alternatives, lists and
//! objects; what else a schema asks for (bounds of numbers, patterns, references) is not in the shape, and a value of
//! which it knows nothing is a string.

use serde_json::{Value, json};

use crate::text::shape::Shape;
use crate::text::tools::gemma::{CALL, Marks};
use crate::text::tools::schema::{Kind, alternatives, kinds, properties, values};
use crate::text::tools::{Tool, choice, optional, sequence, text};

/// The shape of a call.
pub(super) fn call(tool: &Tool, marks: Marks) -> Shape {
    let before = format!("{}{CALL}{}", marks.open, tool.name);
    sequence([text(before), fields(&tool.parameters, marks), text(marks.close)])
}

/// The shape of a value. What the schema does not say is a string.
fn written(schema: &Value, marks: Marks) -> Shape {
    if let Some(values) = values(schema) {
        return choice(values.into_iter().map(|value| text(printed(value, marks))).collect());
    }
    if let Some(schemas) = alternatives(schema) {
        return choice(schemas.iter().map(|schema| written(schema, marks)).collect());
    }
    let kinds = kinds(schema);
    let string = || sequence([text(marks.quote), Shape::Until(marks.quote.to_owned())]);
    let shapes = kinds.iter().map(|kind| match kind {
        Kind::Text => string(),
        Kind::Integer => Shape::Json(json!({"type": "integer"})),
        Kind::Number => Shape::Json(json!({"type": "number"})),
        Kind::Boolean => choice(vec![text("true"), text("false")]),
        Kind::Null => text("null"),
        Kind::List => list(schema, marks),
        Kind::Object => fields(schema, marks),
    });
    if kinds.is_empty() { string() } else { choice(shapes.collect()) }
}

fn list(schema: &Value, marks: Marks) -> Shape {
    let bound = |key| schema[key].as_u64().and_then(|count| u32::try_from(count).ok());
    let item = Box::new(written(&schema["items"], marks));
    let (min, max) = (bound("minItems").unwrap_or(0), bound("maxItems"));
    let items = Shape::Repeat { item, separator: ",".to_owned(), min, max };
    sequence([text("["), items, text("]")])
}

/// The shape of an object: the required fields, then any of the others, each in the schema's order.
fn fields(schema: &Value, marks: Marks) -> Shape {
    let field =
        |(name, schema, _): &(&String, Value, bool)| sequence([text(format!("{name}:")), written(schema, marks)]);
    let (required, optional): (Vec<_>, Vec<_>) = properties(schema).into_iter().partition(|(_, _, required)| *required);
    let required: Vec<Shape> = required.iter().map(field).collect();
    let optional: Vec<Shape> = optional.iter().map(field).collect();
    let Some((first, others)) = required.split_first() else {
        return sequence([text("{"), any_of(&optional), text("}")]);
    };
    let others = others.iter().flat_map(|field| [text(","), field.clone()]);
    let before = [text("{"), first.clone()].into_iter();
    sequence(before.chain(others).chain([more(&optional), text("}")]))
}

/// Any of `fields` in their order, each behind a comma.
fn more(fields: &[Shape]) -> Shape {
    sequence(fields.iter().map(|field| optional(sequence([text(","), field.clone()]))))
}

/// Any of `fields` in their order, with commas between: one choice for each that may be the first, and one for none.
fn any_of(fields: &[Shape]) -> Shape {
    let first = |at: usize| sequence([fields[at].clone(), more(&fields[at + 1..])]);
    let none = std::iter::once(sequence([]));
    choice(none.chain((0..fields.len()).map(first)).collect())
}

/// A value in this notation.
fn printed(value: &Value, marks: Marks) -> String {
    let quote = marks.quote;
    match value {
        Value::String(text) => format!("{quote}{text}{quote}"),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| printed(item, marks)).collect::<Vec<_>>().join(","))
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name}:{}", printed(value, marks)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
