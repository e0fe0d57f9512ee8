//! The places of a JSON schema that others refer to: each is compiled once, under a short name of its own. It refuses
//! references that leave the document, and those that lead back to themselves without taking a byte of the answer.

use std::collections::HashMap;

use serde_json::Value;

/// The places referred to, in the order in which they were found. The root is the first.
pub(super) struct References<'a> {
    /// The whole document.
    root: &'a Value,
    /// Each place: its pointer and what stands there.
    places: Vec<(String, &'a Value)>,
    /// Which place a pointer is.
    known: HashMap<String, usize>,
    /// For each place the ones that its own value must match as well.
    same_place: Vec<Vec<usize>>,
}

impl<'a> References<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self {
            root,
            places: vec![(String::new(), root)],
            known: HashMap::from([(String::new(), 0)]),
            same_place: vec![Vec::new()],
        }
    }

    /// The place of this number, while there is one.
    pub(super) fn place(&self, index: usize) -> Option<(String, &'a Value)> {
        self.places.get(index).cloned()
    }

    /// What to write for `reference`, which stands in a schema of the value of `from` itself, or in one of its parts
    /// (`None`). Says what is wrong with it, as the rest of a sentence.
    pub(super) fn resolve(&mut self, reference: &str, from: Option<usize>) -> Result<String, String> {
        let Some(fragment) = reference.strip_prefix('#') else {
            return Err("leaves the document; only references that begin with `#/` are supported".to_owned());
        };
        let pointer = unescaped(fragment).ok_or("is not a valid reference")?;
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err("is not a JSON pointer; only references that begin with `#/` are supported".to_owned());
        }
        let index = match self.known.get(&pointer) {
            Some(&index) => index,
            None => {
                let Some(value) = self.root.pointer(&pointer) else {
                    return Err("names nothing in the document".to_owned());
                };
                self.places.push((pointer.clone(), value));
                self.same_place.push(Vec::new());
                self.known.insert(pointer, self.places.len() - 1);
                self.places.len() - 1
            }
        };
        if let Some(from) = from {
            self.same_place[from].push(index);
        }
        Ok(if index == 0 { "#".to_owned() } else { format!("#/$defs/{index}") })
    }

    /// A place whose value must match that very place again, so that nothing is said about it; `None` when there is none.
    pub(super) fn circular(&self) -> Option<&str> {
        // Takes away places that lead nowhere until none does; what is left lies on a circle or leads to one.
        let mut left: Vec<bool> = vec![true; self.places.len()];
        loop {
            let ends = |at: usize| self.same_place[at].iter().all(|&to| !left[to]);
            let ending: Vec<usize> = (0..left.len()).filter(|&at| left[at] && ends(at)).collect();
            if ending.is_empty() {
                break;
            }
            ending.into_iter().for_each(|at| left[at] = false);
        }
        left.iter().position(|&left| left).map(|at| self.places[at].0.as_str())
    }
}

/// A fragment without its percent signs; `None` when it is not UTF-8 behind them.
fn unescaped(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reference_is_resolved_once_under_a_short_name() {
        let root = json!({"$defs": {"a/b": {"type": "null"}, "c d": true}});
        let mut references = References::new(&root);
        assert_eq!(references.resolve("#/$defs/a~1b", None), Ok("#/$defs/1".to_owned()));
        assert_eq!(references.resolve("#/$defs/c%20d", None), Ok("#/$defs/2".to_owned()));
        assert_eq!(references.resolve("#/%24defs/a~1b", None), Ok("#/$defs/1".to_owned()));
        assert_eq!(references.resolve("#", None), Ok("#".to_owned()));
        assert_eq!(references.place(1), Some(("/$defs/a~1b".to_owned(), &json!({"type": "null"}))));
        assert_eq!(references.place(3), None);
    }

    #[test]
    fn a_reference_that_cannot_be_followed_is_refused() {
        let root = json!({});
        let mut references = References::new(&root);
        for reference in ["https://example.com/a", "other.json#/a", "#name", "#/nowhere", "#/%zz", "#/%f", ""] {
            assert!(references.resolve(reference, None).is_err(), "{reference}");
        }
    }

    #[test]
    fn a_circle_counts_only_at_the_same_place() {
        let root = json!({"$defs": {"a": {}, "b": {}}});
        let mut references = References::new(&root);
        for (reference, from) in [("#/$defs/a", Some(0)), ("#/$defs/b", Some(1)), ("#/$defs/a", None)] {
            references.resolve(reference, from).expect("it is there");
        }
        assert_eq!(references.circular(), None);
        references.resolve("#/$defs/a", Some(2)).expect("it is there");
        assert_eq!(references.circular(), Some(""), "the root leads to the circle");
    }
}
