//! A JSON schema before it is compiled: every keyword is known and has the right form, sizes are within their limits, and
//! what is left is the part that restricts a document, in the terms of draft 2020-12. Errors name the place and the
//! keyword. It refuses to know how a grammar is made.
//!
//! Invariant: what [`check`] returns admits the documents that the schema admits, no more; what it cannot say so, it
//! refuses.

mod keywords;
mod references;

use serde_json::{Map, Value};

use crate::grammar::budget::{SCHEMA_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMAS_MAX};
use crate::grammar::error::{GrammarError, Source};
use crate::grammar::schema::keywords::{Divisors, Kind, complaint, kind};
use crate::grammar::schema::references::References;

/// Where llguidance's own options stand in a schema. A client's are refused like any other unknown keyword.
const OPTIONS: &str = "x-guidance";

/// The spaces allowed between two tokens of JSON: one, or one line break with an indent. llguidance takes this at most
/// once in a row, so a model that loops in white space runs out of it.
const WHITESPACE: &str = r" |\n {0,48}|\n\t{0,16}";

/// A schema that was checked.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The keywords that restrict, and behind `$defs` the places that they refer to.
    root: Map<String, Value>,
    /// Every schema within, an inner one before its outer one.
    parts: Vec<Part>,
}

/// One of the schemas within a schema.
#[derive(Debug)]
struct Part {
    /// Where it stood, as a JSON pointer behind `#`.
    path: String,
    /// What is left of it.
    schema: Value,
}

impl Checked {
    /// The schema as llguidance reads it.
    pub(crate) fn for_compiler(&self) -> Value {
        let mut root = self.root.clone();
        root.insert(OPTIONS.to_owned(), serde_json::json!({ "whitespace_pattern": WHITESPACE }));
        Value::Object(root)
    }

    /// Every schema within that is an object, with its place, an inner one before its outer one, each as a document that
    /// compiles on its own.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&str, Value)> {
        let definitions = self.root.get("$defs");
        self.parts.iter().filter_map(move |part| {
            let mut schema = part.schema.as_object()?.clone();
            // A reference to the root would mean the part here; the part is then judged by what is around it.
            if !mentions_root(&part.schema)
                && let Some(definitions) = definitions
            {
                schema.insert("$defs".to_owned(), definitions.clone());
            }
            Some((part.path.as_str(), Value::Object(schema)))
        })
    }
}

/// Checks a schema and leaves what restricts.
pub(crate) fn check(schema: &Value) -> Result<Checked, GrammarError> {
    let bytes = schema.to_string().len();
    if bytes > SCHEMA_BYTES_MAX {
        return Err(GrammarError::TooLarge { source_kind: Source::Schema, bytes, limit: SCHEMA_BYTES_MAX });
    }
    let mut walk =
        Walk { references: References::new(schema), parts: Vec::new(), divisors: Divisors::default(), schemas: 0 };
    let mut definitions = Map::new();
    let mut root = Map::new();
    let mut index = 0;
    while let Some((pointer, value)) = walk.references.place(index) {
        let left = walk.schema(value, &At { path: format!("#{pointer}"), depth: 1, same_place: Some(index) })?;
        match left {
            Value::Object(left) if index == 0 => root = left,
            Value::Bool(false) if index == 0 => return Err(keyword_error("#", "false", "admits no document")),
            left if index == 0 => assert_eq!(left, Value::Bool(true), "a schema is an object or a boolean"),
            left => drop(definitions.insert(index.to_string(), left)),
        }
        index += 1;
    }
    if let Some(pointer) = walk.references.circular() {
        let path = format!("#{pointer}");
        return Err(keyword_error(&path, "$ref", "leads back to itself without saying what stands there"));
    }
    if !definitions.is_empty() {
        root.insert("$defs".to_owned(), Value::Object(definitions));
    }
    Ok(Checked { root, parts: walk.parts })
}

/// Where a schema stands.
struct At {
    /// As a JSON pointer behind `#`.
    path: String,
    /// How many schemas are around it, itself included.
    depth: u32,
    /// The place referred to whose own value this schema is about; `None` when it is about a part of that value.
    same_place: Option<usize>,
}

impl At {
    /// A schema within this one, behind a keyword and perhaps a name or a number.
    fn within(&self, steps: &[&str]) -> Self {
        let mut path = self.path.clone();
        for step in steps {
            path.push('/');
            path.push_str(&step.replace('~', "~0").replace('/', "~1"));
        }
        Self { path, depth: self.depth + 1, same_place: None }
    }
}

/// One pass over a schema and all it refers to.
struct Walk<'a> {
    references: References<'a>,
    parts: Vec<Part>,
    divisors: Divisors,
    /// How many schemas were seen.
    schemas: u32,
}

impl Walk<'_> {
    /// What is left of a schema.
    fn schema(&mut self, value: &Value, at: &At) -> Result<Value, GrammarError> {
        depth_allowed(at.depth)?;
        self.schemas += 1;
        if self.schemas > SCHEMAS_MAX {
            return Err(too_much("schemas", u64::from(SCHEMAS_MAX)));
        }
        let left = match value {
            Value::Bool(_) => value.clone(),
            Value::Object(keywords) => self.keywords(keywords, at)?,
            _ => {
                return Err(keyword_error(
                    &at.path,
                    &value.to_string(),
                    "is no schema, which is an object or a boolean",
                ));
            }
        };
        self.parts.push(Part { path: at.path.clone(), schema: left.clone() });
        Ok(left)
    }

    fn keywords(&mut self, keywords: &Map<String, Value>, at: &At) -> Result<Value, GrammarError> {
        let mut left = Map::new();
        let has_positions = keywords.get("items").is_some_and(Value::is_array);
        for (keyword, value) in keywords {
            let wrong = |reason: &str| keyword_error(&at.path, keyword, reason);
            let Some(kind) = kind(keyword) else { return Err(wrong("is not supported")) };
            if let Some(complaint) = complaint(kind, value) {
                return Err(wrong(&complaint));
            }
            let (name, value) = match kind {
                Kind::Annotation | Kind::Off => continue,
                Kind::Identifier if at.path == "#" => continue,
                Kind::Identifier => return Err(wrong("is supported at the root only")),
                // Ignored by the specification when the items have one schema for all.
                Kind::AdditionalItems if !has_positions => continue,
                Kind::AdditionalItems => ("items", self.schema(value, &at.within(&[keyword]))?),
                Kind::Items if has_positions => ("prefixItems", self.list(keyword, value, at)?),
                Kind::Part | Kind::Items => (keyword.as_str(), self.schema(value, &at.within(&[keyword]))?),
                Kind::Positions | Kind::SamePlace => (keyword.as_str(), self.list(keyword, value, at)?),
                Kind::Named | Kind::Patterned => (keyword.as_str(), self.by_name(keyword, value, at)?),
                Kind::Reference => (keyword.as_str(), self.reference(keyword, value, at)?),
                Kind::Divisor => {
                    let divisor = value.as_f64().unwrap_or_default();
                    self.divisors.add(divisor).map_err(|reason| wrong(&reason))?;
                    (keyword.as_str(), value.clone())
                }
                Kind::Constant | Kind::Enumeration => {
                    depth_allowed(at.depth.saturating_add(depth_of(value)))?;
                    (keyword.as_str(), value.clone())
                }
                Kind::Type
                | Kind::Names
                | Kind::Bound
                | Kind::ExclusiveBound
                | Kind::Count
                | Kind::Pattern
                | Kind::Format => (keyword.as_str(), value.clone()),
            };
            left.insert(name.to_owned(), value);
        }
        Ok(Value::Object(left))
    }

    /// What is left of a list of schemas: of the same value, or of its first items.
    fn list(&mut self, keyword: &str, value: &Value, at: &At) -> Result<Value, GrammarError> {
        let Some(schemas) = value.as_array().filter(|schemas| !schemas.is_empty()) else {
            return Err(keyword_error(&at.path, keyword, "must be a list of at least one schema"));
        };
        let same_place = at.same_place.filter(|_| kind(keyword) == Some(Kind::SamePlace));
        let left = schemas.iter().enumerate().map(|(index, schema)| {
            let within = At { same_place, ..at.within(&[keyword, &index.to_string()]) };
            self.schema(schema, &within)
        });
        left.collect()
    }

    /// What is left of schemas by name.
    fn by_name(&mut self, keyword: &str, value: &Value, at: &At) -> Result<Value, GrammarError> {
        let Some(schemas) = value.as_object() else {
            return Err(keyword_error(&at.path, keyword, "must be an object of schemas"));
        };
        let mut left = Map::new();
        for (name, schema) in schemas {
            if kind(keyword) == Some(Kind::Patterned)
                && let Some(complaint) = complaint(Kind::Pattern, &Value::String(name.clone()))
            {
                return Err(keyword_error(&at.path, keyword, &complaint));
            }
            left.insert(name.clone(), self.schema(schema, &at.within(&[keyword, name]))?);
        }
        Ok(Value::Object(left))
    }

    fn reference(&mut self, keyword: &str, value: &Value, at: &At) -> Result<Value, GrammarError> {
        let Some(reference) = value.as_str() else {
            return Err(keyword_error(&at.path, keyword, "must be a text"));
        };
        match self.references.resolve(reference, at.same_place) {
            Ok(name) => Ok(Value::String(name)),
            Err(reason) => Err(keyword_error(&at.path, keyword, &format!("with `{reference}` {reason}"))),
        }
    }
}

fn keyword_error(path: &str, keyword: &str, reason: &str) -> GrammarError {
    GrammarError::Keyword { path: path.to_owned(), keyword: keyword.to_owned(), reason: reason.to_owned() }
}

fn too_much(unit: &'static str, limit: u64) -> GrammarError {
    GrammarError::TooMuch { source_kind: Source::Schema, unit, limit }
}

fn depth_allowed(depth: u32) -> Result<(), GrammarError> {
    if depth > SCHEMA_DEPTH_MAX {
        return Err(too_much("levels of nesting", u64::from(SCHEMA_DEPTH_MAX)));
    }
    Ok(())
}

/// How deep arrays and objects are nested in a value. The parser that made the value bounds the recursion.
fn depth_of(value: &Value) -> u32 {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth_of).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth_of).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Whether a checked schema refers to the root.
fn mentions_root(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(mentions_root),
        Value::Object(members) => {
            members.get("$ref").is_some_and(|reference| reference == "#") || members.values().any(mentions_root)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests;
