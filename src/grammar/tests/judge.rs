//! A judge of JSON documents that shares nothing with the code under test: the keywords that the tests use, by the
//! letter of the specification.

use serde_json::Value;

/// Whether `document` is what `schema` admits, both within the document `root` that references point into.
pub(crate) fn admits(root: &Value, schema: &Value, document: &Value) -> bool {
    let Value::Object(keywords) = schema else { return schema.as_bool().unwrap() };
    keywords.iter().all(|(keyword, value)| {
        let admits = |schema: &Value, document: &Value| admits(root, schema, document);
        let list = || value.as_array().unwrap().iter();
        match keyword.as_str() {
            "$ref" => admits(root.pointer(value.as_str().unwrap().trim_start_matches('#')).unwrap(), document),
            "type" => value.as_str().into_iter().chain(names(value)).any(|name| is_a(document, name)),
            "const" => document == value,
            "enum" => list().any(|one| one == document),
            "allOf" => list().all(|schema| admits(schema, document)),
            "anyOf" => list().any(|schema| admits(schema, document)),
            "oneOf" => list().filter(|schema| admits(schema, document)).count() == 1,
            "minimum" => document.as_f64().is_none_or(|number| number >= value.as_f64().unwrap()),
            "maximum" => document.as_f64().is_none_or(|number| number <= value.as_f64().unwrap()),
            "exclusiveMinimum" => document.as_f64().is_none_or(|number| number > value.as_f64().unwrap()),
            "multipleOf" => document.as_f64().is_none_or(|number| {
                let times = number / value.as_f64().unwrap();
                (times - times.round()).abs() < 1e-6
            }),
            "minLength" => document.as_str().is_none_or(|text| text.chars().count() as u64 >= value.as_u64().unwrap()),
            "maxLength" => document.as_str().is_none_or(|text| text.chars().count() as u64 <= value.as_u64().unwrap()),
            "minItems" => document.as_array().is_none_or(|items| items.len() as u64 >= value.as_u64().unwrap()),
            "maxItems" => document.as_array().is_none_or(|items| items.len() as u64 <= value.as_u64().unwrap()),
            "required" => {
                document.as_object().is_none_or(|members| names(value).all(|name| members.contains_key(name)))
            }
            "prefixItems" => document
                .as_array()
                .is_none_or(|items| items.iter().zip(list()).all(|(item, schema)| admits(schema, item))),
            "items" => document.as_array().is_none_or(|items| {
                let first = keywords.get("prefixItems").map_or(0, |schemas| schemas.as_array().unwrap().len());
                items.iter().skip(first).all(|item| admits(value, item))
            }),
            "properties" => document.as_object().is_none_or(|members| {
                members.iter().all(|(name, member)| value.get(name).is_none_or(|schema| admits(schema, member)))
            }),
            "additionalProperties" => document.as_object().is_none_or(|members| {
                let named = |name: &str| keywords.get("properties").is_some_and(|schemas| schemas.get(name).is_some());
                members.iter().all(|(name, member)| named(name) || admits(value, member))
            }),
            "$defs" | "title" | "description" | "pattern" | "format" => true,
            other => panic!("the judge does not know {other}"),
        }
    })
}

fn names(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn is_a(document: &Value, name: &str) -> bool {
    match name {
        "null" => document.is_null(),
        "boolean" => document.is_boolean(),
        "number" => document.is_number(),
        "integer" => document.as_f64().is_some_and(|number| number.fract() == 0.0),
        "string" => document.is_string(),
        "array" => document.is_array(),
        "object" => document.is_object(),
        other => panic!("no type {other}"),
    }
}
