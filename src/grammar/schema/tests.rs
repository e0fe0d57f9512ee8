//! What is left of schemas, and what is refused with its place. That what is left means the same is tested where
//! documents are generated.

use serde_json::json;

use super::*;

fn left(schema: Value) -> Value {
    Value::Object(check(&schema).expect("a supported schema").root)
}

fn refused(schema: Value) -> String {
    check(&schema).expect_err("not a supported schema").to_string()
}

#[test]
fn annotations_leave_nothing_behind() {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "$id": "urn:a", "title": "A", "type": "object",
        "properties": {"title": {"description": "kept by its name", "type": "string", "default": 1}},
        "uniqueItems": false,
    });
    assert_eq!(left(schema), json!({"type": "object", "properties": {"title": {"type": "string"}}}));
}

#[test]
fn lists_of_items_become_the_newest_draft() {
    let schema = json!({"items": [{"type": "null"}, true], "additionalItems": false});
    assert_eq!(left(schema), json!({"prefixItems": [{"type": "null"}, true], "items": false}));
    assert_eq!(left(json!({"items": {"type": "null"}, "additionalItems": false})), json!({"items": {"type": "null"}}));
}

#[test]
fn only_what_is_referred_to_is_kept_and_once() {
    let schema = json!({
        "properties": {"a": {"$ref": "#/$defs/x~1y"}, "b": {"$ref": "#/$defs/x~1y"}, "c": {"$ref": "#"}},
        "$defs": {"x/y": {"type": "null", "title": "x"}, "unused": {"not": {}}},
    });
    let expected = json!({
        "properties": {"a": {"$ref": "#/$defs/1"}, "b": {"$ref": "#/$defs/1"}, "c": {"$ref": "#"}},
        "$defs": {"1": {"type": "null"}},
    });
    assert_eq!(left(schema), expected);
}

#[test]
fn an_unsupported_keyword_is_named_with_its_place() {
    for keyword in ["not", "if", "contains", "dependentRequired", "nullable", "x-guidance", "$dynamicRef", "typo"] {
        let schema = json!({"type": "object", "properties": {"a/b": {"items": {keyword: {}}}}});
        assert_eq!(refused(schema), format!("`{keyword}` at #/properties/a~1b/items is not supported"));
    }
}

#[test]
fn a_value_of_the_wrong_form_is_named_with_its_place() {
    let cases = [
        (json!({"anyOf": []}), "`anyOf` at # must be a list of at least one schema"),
        (json!({"items": 1}), "`1` at #/items is no schema, which is an object or a boolean"),
        (json!({"properties": []}), "`properties` at # must be an object of schemas"),
        (json!({"items": {"maxItems": 1.5}}), "`maxItems` at #/items must be a count of at most 1000000"),
        (json!({"uniqueItems": true}), "`uniqueItems` at # is not supported"),
        (json!({"items": {"$id": "a"}}), "`$id` at #/items is supported at the root only"),
        (json!({"$ref": 1}), "`$ref` at # must be a text"),
        (json!(false), "`false` at # admits no document"),
    ];
    for (schema, message) in cases {
        assert_eq!(refused(schema), message);
    }
}

#[test]
fn a_reference_out_of_the_document_is_refused() {
    let message = refused(json!({"properties": {"a": {"$ref": "https://example.com/s.json"}}}));
    assert!(message.starts_with("`$ref` at #/properties/a with `https://example.com/s.json` leaves"), "{message}");
}

#[test]
fn a_circle_without_progress_is_refused() {
    let circles = [
        json!({"$ref": "#"}),
        json!({"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
        json!({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
    ];
    for schema in circles {
        let message = refused(schema);
        assert!(message.contains("leads back to itself"), "{message}");
    }
    let tree = json!({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}]});
    assert_eq!(left(tree.clone()), tree);
}

#[test]
fn sizes_have_limits_with_numbers() {
    let mut deep = json!({"type": "null"});
    for _ in 0..SCHEMA_DEPTH_MAX {
        deep = json!({"items": deep});
    }
    assert!(refused(deep).contains("more than 32 levels of nesting"));

    let mut constant = json!(1);
    for _ in 0..SCHEMA_DEPTH_MAX {
        constant = json!([constant]);
    }
    assert!(refused(json!({"const": constant})).contains("more than 32 levels of nesting"));

    let wide: Vec<Value> = (0..SCHEMAS_MAX).map(|_| json!(true)).collect();
    assert!(refused(json!({"prefixItems": wide})).contains("more than 1000 schemas"));

    let long = "x".repeat(SCHEMA_BYTES_MAX);
    assert!(refused(json!({"const": long})).contains("the limit is 65536"));
}

#[test]
fn every_part_is_listed_before_what_is_around_it() {
    let checked = check(&json!({"items": {"items": {"type": "null"}}})).expect("a supported schema");
    let paths: Vec<&str> = checked.parts().map(|(path, _)| path).collect();
    assert_eq!(paths, ["#/items/items", "#/items", "#"]);
}
