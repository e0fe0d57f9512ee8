//! The keywords of a JSON schema and what may stand behind each. Every keyword is either here or refused: none that
//! restricts a document is ever skipped. It refuses to know how schemas nest.

use serde_json::Value;

use crate::grammar::budget::{COUNT_MAX, DIVISOR_MAX, REGEX_BYTES_MAX};

/// What stands behind a keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Words for people and tools; restricts nothing.
    Annotation,
    /// Gives the schema a name, which moves what references mean: harmless at the root only.
    Identifier,
    /// Another place of the document.
    Reference,
    /// Schemas of the same value.
    SamePlace,
    /// A schema of parts of the value.
    Part,
    /// A list of schemas, one for each of the first items.
    Positions,
    /// Items: a schema, or a list of them in older drafts.
    Items,
    /// What follows such a list.
    AdditionalItems,
    /// Schemas by name.
    Named,
    /// Schemas by regular expression.
    Patterned,
    /// Anything that is not nested too deep.
    Constant,
    /// A list of such.
    Enumeration,
    /// One or more names of types.
    Type,
    /// A list of names.
    Names,
    /// A number.
    Bound,
    /// A number, or a switch in the oldest draft.
    ExclusiveBound,
    /// A number above zero.
    Divisor,
    /// A count.
    Count,
    /// A regular expression.
    Pattern,
    /// The name of a format.
    Format,
    /// A restriction that is supported only when it is switched off.
    Off,
}

/// Largest whole number that llguidance reads as it is: it computes in floats.
const WHOLE_MAX: u64 = 1 << 53;

/// The formats that llguidance has a regular expression for.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// The names of types.
const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// What stands behind `keyword`; `None` when it is not supported.
pub(super) fn kind(keyword: &str) -> Option<Kind> {
    Some(match keyword {
        "$schema" | "$comment" | "$anchor" | "$defs" | "definitions" | "title" | "description" | "default"
        | "examples" | "readOnly" | "writeOnly" | "deprecated" | "contentMediaType" | "contentEncoding"
        | "discriminator" => Kind::Annotation,
        "$id" | "id" => Kind::Identifier,
        "$ref" => Kind::Reference,
        "allOf" | "anyOf" | "oneOf" => Kind::SamePlace,
        "additionalProperties" => Kind::Part,
        "prefixItems" => Kind::Positions,
        "items" => Kind::Items,
        "additionalItems" => Kind::AdditionalItems,
        "properties" => Kind::Named,
        "patternProperties" => Kind::Patterned,
        "const" => Kind::Constant,
        "enum" => Kind::Enumeration,
        "type" => Kind::Type,
        "required" => Kind::Names,
        "minimum" | "maximum" => Kind::Bound,
        "exclusiveMinimum" | "exclusiveMaximum" => Kind::ExclusiveBound,
        "multipleOf" => Kind::Divisor,
        "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => Kind::Count,
        "pattern" => Kind::Pattern,
        "format" => Kind::Format,
        "uniqueItems" => Kind::Off,
        _ => return None,
    })
}

/// What is wrong with the value of a keyword that holds no schema, as the rest of a sentence. What llguidance is given
/// has these forms only, so that none of its own complaints about them, which name no place, is ever heard.
pub(super) fn complaint(kind: Kind, value: &Value) -> Option<String> {
    if takes_numbers(kind) && !is_exact(value) {
        return Some(format!("has a whole number beyond {WHOLE_MAX}, which is not supported"));
    }
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let wanted = match kind {
        Kind::Type if is_type(value) => return None,
        Kind::Type if value.as_array().is_some_and(|types| !types.is_empty() && types.iter().all(is_type)) => {
            return None;
        }
        Kind::Type => format!("must be one or more of {}", TYPES.join(", ")),
        Kind::Names if value.as_array().is_some_and(|names| names.iter().all(Value::is_string)) => return None,
        Kind::Names => "must be a list of names".to_owned(),
        Kind::Enumeration if value.as_array().is_some_and(|values| !values.is_empty()) => return None,
        Kind::Enumeration => "must be a list of at least one value".to_owned(),
        Kind::Bound if value.is_number() => return None,
        Kind::ExclusiveBound if value.is_number() || value.is_boolean() => return None,
        Kind::Bound | Kind::ExclusiveBound => "must be a number".to_owned(),
        Kind::Divisor if value.as_f64().is_some_and(|divisor| divisor > 0.0) => return None,
        Kind::Divisor => "must be a number above zero".to_owned(),
        Kind::Count if value.as_u64().is_some_and(|count| count <= COUNT_MAX) => return None,
        Kind::Count => format!("must be a count of at most {COUNT_MAX}"),
        Kind::Pattern if value.as_str().is_some_and(|pattern| pattern.len() <= REGEX_BYTES_MAX) => return None,
        Kind::Pattern => format!("must be a regular expression of at most {REGEX_BYTES_MAX} bytes"),
        Kind::Format if value.as_str().is_some_and(|name| FORMATS.contains(&name)) => return None,
        Kind::Format => format!("has {value}; supported are {}", FORMATS.join(", ")),
        Kind::Off if value == &Value::Bool(false) => return None,
        Kind::Off => "is not supported".to_owned(),
        Kind::Annotation
        | Kind::Identifier
        | Kind::Reference
        | Kind::SamePlace
        | Kind::Part
        | Kind::Positions
        | Kind::Items
        | Kind::AdditionalItems
        | Kind::Named
        | Kind::Patterned
        | Kind::Constant => return None,
    };
    Some(wanted)
}

fn takes_numbers(kind: Kind) -> bool {
    matches!(kind, Kind::Constant | Kind::Enumeration | Kind::Bound | Kind::ExclusiveBound)
}

/// Whether every number in a value is what llguidance makes of it.
fn is_exact(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Number(number) if number.is_f64() => true,
        Value::Number(number) => {
            let size = number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64());
            size.is_some_and(|size| size <= WHOLE_MAX)
        }
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// All divisors of a schema, because those of schemas that are intersected become their least common multiple.
#[derive(Debug, Default)]
pub(super) struct Divisors {
    /// Each as a whole number and how many decimal places it was moved by.
    seen: Vec<(u64, u32)>,
}

impl Divisors {
    /// Most decimal places of a divisor.
    const PLACES_MAX: u32 = 9;

    /// Takes the next one, which is above zero; says what is wrong with it.
    pub(super) fn add(&mut self, divisor: f64) -> Result<(), String> {
        // The arithmetic of llguidance, so that both see the same number.
        let (mut whole, mut places) = (divisor, 0);
        while whole.fract() != 0.0 && places < Self::PLACES_MAX {
            whole *= 10.0;
            places += 1;
        }
        let too_fine = || format!("has more digits than are supported; all together may come to {DIVISOR_MAX}");
        if whole.fract() != 0.0 || whole > DIVISOR_MAX as f64 {
            return Err(too_fine());
        }
        self.seen.push((whole as u64, places));
        let places_max = self.seen.iter().map(|&(_, places)| places).max().unwrap_or(0);
        let mut common = 1_u64;
        for &(whole, places) in &self.seen {
            let scaled = whole * 10_u64.pow(places_max - places);
            common = common / divisor_of_both(common, scaled) * scaled;
            if common > DIVISOR_MAX {
                return Err(too_fine());
            }
        }
        Ok(())
    }
}

/// The greatest common divisor, by Euclid.
fn divisor_of_both(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_the_wrong_form_are_named() {
        let wrong = [
            (Kind::Type, json!("text")),
            (Kind::Type, json!([])),
            (Kind::Names, json!("a")),
            (Kind::Enumeration, json!([])),
            (Kind::Bound, json!("1")),
            (Kind::Bound, json!(9_007_199_254_740_993_u64)),
            (Kind::Constant, json!([{"a": i64::MIN}])),
            (Kind::Divisor, json!(0)),
            (Kind::Count, json!(-1)),
            (Kind::Count, json!(1_000_001)),
            (Kind::Pattern, json!(1)),
            (Kind::Format, json!("int32")),
            (Kind::Off, json!(true)),
        ];
        for (kind, value) in wrong {
            assert!(complaint(kind, &value).is_some(), "{kind:?} {value}");
        }
        assert_eq!(complaint(Kind::Type, &json!(["string", "null"])), None);
        assert_eq!(complaint(Kind::Off, &json!(false)), None);
    }

    #[test]
    fn divisors_have_a_bounded_common_multiple() {
        let check = |divisors: &[f64]| {
            let mut all = Divisors::default();
            divisors.iter().try_for_each(|&divisor| all.add(divisor))
        };
        assert_eq!(check(&[0.01, 1.0, 5.0]), Ok(()));
        assert_eq!(check(&[7.0, 11.0, 12.0]), Ok(()));
        assert!(check(&[997.0, 2.0]).is_err());
        assert!(check(&[1e-300]).is_err());
        assert!(check(&[0.000_001, 1.0]).is_err());
        assert!(check(&[f64::MAX]).is_err());
    }
}
