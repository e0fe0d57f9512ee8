//! Markers in a text that comes character by character: what may still become one is held, everything else goes out at
//! once. Held is at most one marker less a character, and a character costs a comparison with each marker, so the work
//! is linear however a text is made.
//!
//! Invariant: the first character of a marker stands nowhere else in any of them. A marker that begins and breaks off
//! can therefore hide no other, and nothing is ever looked at again but the character that broke it.

/// The markers that are looked for and what of the text may become one.
#[derive(Debug)]
pub(crate) struct Watch {
    /// What is looked for.
    markers: Vec<&'static str>,
    /// The end of the text so far; a prefix of a marker, or nothing.
    held: String,
}

impl Watch {
    /// Looks for `markers`.
    pub fn new(markers: Vec<&'static str>) -> Self {
        assert!(markers.iter().all(|marker| !marker.is_empty()), "an empty marker is everywhere");
        for first in markers.iter().filter_map(|marker| marker.chars().next()) {
            let mut later = markers.iter().flat_map(|marker| marker.chars().skip(1));
            assert!(later.all(|character| character != first), "{first:?} begins a marker inside of another");
        }
        Self { markers, held: String::new() }
    }

    /// Takes the next character. What can be no marker is appended to `free`; a marker that is complete comes back.
    pub fn step(&mut self, character: char, free: &mut String) -> Option<&'static str> {
        let held = self.held.len();
        self.held.push(character);
        if held > 0 && !self.may_become_a_marker() {
            free.push_str(&self.held[..held]);
            self.held.drain(..held);
        }
        if !self.may_become_a_marker() {
            free.push_str(&self.held);
            self.held.clear();
        }
        let found = self.markers.iter().find(|marker| **marker == self.held).copied();
        if found.is_some() {
            self.held.clear();
        }
        found
    }

    /// Bytes at the end of the text that may become a marker.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// The text is over: what was held is no marker.
    pub fn release(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn may_become_a_marker(&self) -> bool {
        self.markers.iter().any(|marker| marker.starts_with(self.held.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MARKERS: [&str; 3] = ["<ab>", "<abc>", "{"];

    /// The text outside of markers, and the markers, in order.
    fn read(text: &str) -> (String, Vec<&'static str>) {
        let mut watch = Watch::new(MARKERS.to_vec());
        let mut free = String::new();
        let found = text.chars().filter_map(|character| watch.step(character, &mut free)).collect();
        free.push_str(&watch.release());
        (free, found)
    }

    /// The slow way: the marker that begins first, cut out again and again.
    fn oracle(text: &str) -> (String, Vec<&'static str>) {
        let (mut free, mut found, mut rest) = (String::new(), Vec::new(), text);
        while let Some((at, marker)) =
            MARKERS.iter().filter_map(|marker| Some((rest.find(marker)?, *marker))).min_by_key(|(at, _)| *at)
        {
            free.push_str(&rest[..at]);
            found.push(marker);
            rest = &rest[at + marker.len()..];
        }
        (free + rest, found)
    }

    #[test]
    fn text_that_can_be_no_marker_goes_out_at_once() {
        let mut watch = Watch::new(MARKERS.to_vec());
        let mut free = String::new();
        assert_eq!((watch.step('a', &mut free), free.as_str()), (None, "a"));
        assert_eq!((watch.step('<', &mut free), free.as_str()), (None, "a"));
        assert_eq!((watch.step('<', &mut free), free.as_str()), (None, "a<"));
        assert_eq!((watch.step('a', &mut free), watch.step('b', &mut free)), (None, None));
        assert_eq!((watch.step('>', &mut free), free.as_str()), (Some("<ab>"), "a<"));
    }

    #[test]
    #[should_panic(expected = "begins a marker inside of another")]
    fn a_marker_inside_of_another_is_refused() {
        Watch::new(vec!["<a<", "b"]);
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_search_finds(text in "[<abc>{\u{e9}]{0,24}") {
            prop_assert_eq!(read(&text), oracle(&text));
        }
    }
}
