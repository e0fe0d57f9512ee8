//! What a tool's JSON schema says of one argument, for formats that write arguments without their types: which kinds of
//! value it admits, and what JSON a bare text is. It reads the keywords that say so beside the value (`type`, `enum`,
//! `const`, `anyOf`, `oneOf`) and follows no `$ref`; what it cannot tell is text.

use serde_json::{Value, json};

use crate::text::tools::json::literal;

/// Keywords that other parts of a schema are referred to by; they stand in its root.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];

/// A kind of JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string.
    Text,
    /// A number without a fraction.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `null`.
    Null,
    /// An array.
    List,
    /// An object.
    Object,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        match name {
            "string" => Some(Self::Text),
            "integer" => Some(Self::Integer),
            "number" => Some(Self::Number),
            "boolean" => Some(Self::Boolean),
            "null" => Some(Self::Null),
            "array" => Some(Self::List),
            "object" => Some(Self::Object),
            _ => None,
        }
    }

    fn of(value: &Value) -> Self {
        match value {
            Value::String(_) => Self::Text,
            Value::Number(number) if number.is_f64() => Self::Number,
            Value::Number(_) => Self::Integer,
            Value::Bool(_) => Self::Boolean,
            Value::Null => Self::Null,
            Value::Array(_) => Self::List,
            Value::Object(_) => Self::Object,
        }
    }

    /// Whether a value of kind `other` is also one of this.
    fn holds(self, other: Self) -> bool {
        self == other || (self == Self::Number && other == Self::Integer)
    }
}

/// The kinds that a schema admits; none when it does not say.
pub(crate) fn kinds(schema: &Value) -> Vec<Kind> {
    match &schema["type"] {
        Value::String(name) => return Kind::named(name).into_iter().collect(),
        Value::Array(names) => return names.iter().filter_map(|name| Kind::named(name.as_str()?)).collect(),
        _ => {}
    }
    if let Some(values) = values(schema) {
        return values.into_iter().map(Kind::of).collect();
    }
    alternatives(schema).into_iter().flatten().flat_map(kinds).collect()
}

/// The only values that a schema admits, when it names them.
pub(crate) fn values(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    Some(schema["enum"].as_array()?.iter().collect())
}

/// The schemas of which one must admit the value.
pub(crate) fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array())
}

/// Whether a value that is written bare is a string, whatever it reads as.
pub(crate) fn is_text(kinds: &[Kind]) -> bool {
    kinds.iter().all(|kind| *kind == Kind::Text)
}

/// The JSON of a value that is written bare. A text that is no value of the kinds is a string, also where strings are
/// not admitted: nothing is lost, and whoever checks the arguments sees what the model wrote.
pub(crate) fn value(bare: &str, kinds: &[Kind]) -> String {
    let text = literal(bare);
    let admitted = |value: Value| {
        let kind = Kind::of(&value);
        kind != Kind::Text && kinds.iter().any(|admitted| admitted.holds(kind))
    };
    if serde_json::from_str(text).is_ok_and(admitted) { text.to_owned() } else { Value::from(bare).to_string() }
}

/// The properties of an object's schema, in its order: name, schema, and whether it must be there. The schemas take
/// along what they may refer to.
pub(crate) fn properties(schema: &Value) -> Vec<(&String, Value, bool)> {
    let required =
        |name: &String| schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
    let whole = |property: &Value| {
        let mut property = property.clone();
        for key in DEFINITIONS {
            if let (Some(fields), Some(definitions)) = (property.as_object_mut(), schema.get(key)) {
                fields.entry(key).or_insert_with(|| definitions.clone());
            }
        }
        property
    };
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties.map(|(name, property)| (name, whole(property), required(name))).collect()
}

/// A tool's schema as that of an object, which arguments always are.
pub(crate) fn object(parameters: &Value) -> Value {
    let mut fields = parameters.as_object().cloned().unwrap_or_default();
    fields.entry("type").or_insert_with(|| json!("object"));
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_text_is_the_value_that_its_schema_admits() {
        let check = |schema: Value, bare: &str, expected: &str| {
            assert_eq!(value(bare, &kinds(&schema)), expected, "{bare} as {schema}");
        };
        check(json!({"type": "integer"}), " 3\n", "3");
        check(json!({"type": "integer"}), "3.5", "\"3.5\"");
        check(json!({"type": "number"}), "3", "3");
        check(json!({"type": "boolean"}), "True", "true");
        check(json!({"type": ["string", "null"]}), "None", "null");
        check(json!({"type": ["string", "null"]}), "5", "\"5\"");
        check(json!({"type": "object"}), "{\"a\": [1]}", "{\"a\": [1]}");
        check(json!({"type": "object"}), "{'a': 1}", "\"{'a': 1}\"");
        check(json!({"enum": [1, 2]}), "2", "2");
        check(json!({"anyOf": [{"type": "array"}, {"type": "string"}]}), "[1]", "[1]");
        check(json!({"anyOf": [{"type": "array"}, {"type": "string"}]}), "1]", "\"1]\"");
        check(json!({}), "7", "\"7\"");
    }

    #[test]
    fn a_property_takes_along_what_it_refers_to() {
        let schema = json!({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": true}, "required": ["a"]});
        let name = "a".to_owned();
        assert_eq!(properties(&schema), [(&name, json!({"$ref": "#/$defs/x", "$defs": {"x": true}}), true)]);
    }
}
