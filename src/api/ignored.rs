//! The `x-ignored-params` header: which fields of a request had no effect. Names come from the client, so they are
//! bounded in number and length and reduced to characters that a header may carry.

use std::fmt::Write as _;

/// Names listed before the rest is only counted.
const NAMES_MAX: usize = 32;
/// Bytes of one listed name, after encoding.
const NAME_BYTES_MAX: usize = 64;

/// The header's value; `None` when nothing was ignored.
#[must_use]
pub fn header_value(names: &[String]) -> Option<String> {
    let mut value = String::new();
    for name in names.iter().take(NAMES_MAX) {
        if !value.is_empty() {
            value.push_str(", ");
        }
        encode(name, &mut value);
    }
    let left = names.len().saturating_sub(NAMES_MAX);
    if left > 0 {
        // The ASCII spelling of `…+N`.
        write!(value, ", ...+{left}").expect("writing to a string cannot fail");
    }
    (!value.is_empty()).then_some(value)
}

/// Appends `name`, percent-encoded and cut at a whole character of the encoded form.
fn encode(name: &str, value: &mut String) {
    let start = value.len();
    for byte in name.bytes() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let width = if plain { 1 } else { 3 };
        if value.len() - start + width > NAME_BYTES_MAX {
            return;
        }
        if plain {
            value.push(char::from(byte));
        } else {
            write!(value, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_listed_encoded_and_the_rest_is_counted() {
        assert_eq!(header_value(&[]), None);
        let names: Vec<String> = ["foo", "a b", "x\r\nset-cookie: y", "ü"].map(str::to_owned).to_vec();
        assert_eq!(header_value(&names).as_deref(), Some("foo, a%20b, x%0D%0Aset-cookie%3A%20y, %C3%BC"));
        let many: Vec<String> = (0..40).map(|index| format!("p{index}")).collect();
        assert!(header_value(&many).expect("forty names").ends_with("p31, ...+8"));
    }

    proptest! {
        #[test]
        fn any_names_make_a_bounded_header_of_visible_ascii(names in proptest::collection::vec(".{0,200}", 0..80)) {
            if let Some(value) = header_value(&names) {
                prop_assert!(value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
                prop_assert!(value.len() <= NAMES_MAX * (NAME_BYTES_MAX + 2) + 16);
            }
        }
    }
}
