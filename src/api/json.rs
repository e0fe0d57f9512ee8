//! Reads a body as JSON, more strictly than JSON asks: a duplicate key is a mistake and not a silent choice, a NUL in a
//! string is refused, and the number of values is bounded, so that eight megabytes of `[[],[],…` cannot become a
//! gigabyte of tree. Depth is bounded by serde_json (128).

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::api::error::Invalid;

/// Most values (of any kind, at any depth) in one body. A long conversation with tools has a few thousand.
pub const VALUES_MAX: usize = 200_000;

/// The body's top-level object.
///
/// # Errors
/// The body is not JSON, not an object, or breaks one of this module's rules.
pub fn parse_object(body: &[u8]) -> Result<Map<String, Value>, Invalid> {
    let left = Cell::new(VALUES_MAX);
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = Strict { left: &left }
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| Invalid::body(format!("the body is not acceptable JSON: {error}")))?;
    match value {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(Invalid::body("the body is JSON, but not an object"))
        }
    }
}

/// Builds a [`Value`] under this module's rules.
#[derive(Clone, Copy)]
struct Strict<'a> {
    /// Values that may still be read.
    left: &'a Cell<usize>,
}

impl Strict<'_> {
    fn count<E: de::Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| E::custom(format!("more than {VALUES_MAX} values")))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        if value.contains('\0') {
            return Err(E::custom("a string contains U+0000"));
        }
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(64).collect();
                return Err(de::Error::custom(format!("duplicate key {shown:?}")));
            }
            let value = entries.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_refused(body: &str, reason: &str) {
        let error = parse_object(body.as_bytes()).expect_err("this body is refused");
        assert!(error.message.contains(reason), "{body}: {}", error.message);
    }

    #[test]
    fn a_duplicate_key_is_refused_at_any_depth() {
        check_refused(r#"{"a":1,"a":2}"#, "duplicate key \"a\"");
        check_refused(r#"{"a":[{"b":{"c":1,"c":1}}]}"#, "duplicate key \"c\"");
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        for body in [r#"{"a":NaN}"#, r#"{"a":1e999}"#, r#"{"a":"\ud800"}"#, "{", "", "{}x", "\u{feff}{}"] {
            check_refused(body, "not acceptable JSON");
        }
        check_refused(r#"{"a":"\u0000"}"#, "U+0000");
        check_refused("[]", "not an object");
    }

    #[test]
    fn nesting_and_the_number_of_values_are_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        check_refused(&deep, "recursion limit");
        let wide = format!("{{\"a\":[{}0]}}", "0,".repeat(VALUES_MAX));
        check_refused(&wide, "more than 200000 values");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_never_panic(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse_object(&body);
        }

        #[test]
        fn what_is_accepted_equals_what_serde_json_reads(key in "[a-z]{1,8}", number in any::<i64>(), text in "[^\u{0}]{0,32}") {
            let whole = serde_json::json!({ key: [number, text, null, true, { "x": 0.5 }] });
            let read = parse_object(whole.to_string().as_bytes()).expect("plain JSON is accepted");
            prop_assert_eq!(Value::Object(read), whole);
        }
    }
}
