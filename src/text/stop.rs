//! Stop strings in a stream of text: what may still become one is held back, so no prefix of a stop string is ever
//! seen by a client that is then told to stop. It refuses to know tokens and where the text comes from.
//!
//! The stop that counts is the one that is complete first; of several complete at the same byte, the longest. That
//! makes the outcome a function of the text alone, however it was cut into pieces.

/// What one piece of text lets out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emit {
    /// Text that can no longer become part of a stop string; may be empty.
    pub text: String,
    /// A stop string was complete. Nothing comes out after this.
    pub stopped: bool,
}

/// The stop strings of one generation and what of the text is held back because of them.
#[derive(Debug, Clone)]
pub struct StopStrings {
    /// One matcher a stop string; they see the same bytes.
    stops: Vec<Matcher>,
    /// The end of the text so far that may become a stop string: the longest partial match.
    held: String,
    /// A stop string was complete.
    stopped: bool,
}

impl StopStrings {
    /// Watches for `stops`. An empty string stops nothing and is dropped.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).map(Matcher::new).collect();
        Self { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece of text and gives back what may be shown.
    pub fn push(&mut self, text: &str) -> Emit {
        if self.stopped {
            return Emit { text: String::new(), stopped: true };
        }
        self.held.push_str(text);
        let first_new = self.held.len() - text.len();
        for end in first_new..self.held.len() {
            let byte = self.held.as_bytes()[end];
            let complete = self.stops.iter_mut().filter_map(|stop| stop.step(byte)).max();
            if let Some(length) = complete {
                self.stopped = true;
                self.held.truncate(end + 1 - length);
                return Emit { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        // A partial match starts where a stop string starts, which is a character boundary.
        let partial = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - partial);
        Emit { text: std::mem::replace(&mut self.held, kept), stopped: false }
    }

    /// Something else than text follows, so that what was held is no stop string: gives it back. Empty once stopped.
    pub fn interrupt(&mut self) -> String {
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
        std::mem::take(&mut self.held)
    }

    /// The text is over: gives back what was held, which is no stop string after all. Empty once stopped.
    #[must_use]
    pub fn finish(self) -> String {
        self.held
    }
}

/// Knuth–Morris–Pratt over bytes: constant amortised work a byte, however long the stop string is.
#[derive(Debug, Clone)]
struct Matcher {
    /// The stop string.
    pattern: Vec<u8>,
    /// For each prefix length − 1, the length of its longest proper border.
    borders: Vec<usize>,
    /// How much of the pattern the text now ends with.
    matched: usize,
}

impl Matcher {
    fn new(stop: String) -> Self {
        let pattern = stop.into_bytes();
        let mut borders = vec![0; pattern.len()];
        for end in 1..pattern.len() {
            let mut border = borders[end - 1];
            while border > 0 && pattern[border] != pattern[end] {
                border = borders[border - 1];
            }
            borders[end] = border + usize::from(pattern[border] == pattern[end]);
        }
        Self { pattern, borders, matched: 0 }
    }

    /// Takes one byte; returns the pattern's length when that byte completes it. Called no more after that.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.pattern[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(self.pattern[self.matched] == byte);
        (self.matched == self.pattern.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, String, bool) {
        let mut watched = StopStrings::new(stops.iter().map(ToString::to_string).collect());
        let emitted: Vec<Emit> = pieces.iter().map(|piece| watched.push(piece)).collect();
        let stopped = emitted.last().is_some_and(|emit| emit.stopped);
        (emitted.into_iter().map(|emit| emit.text).collect(), watched.finish(), stopped)
    }

    /// What comes out of the whole text: cut before the stop that is complete first, the longest if several are.
    fn oracle(stops: &[String], text: &str) -> (String, bool) {
        for end in 1..=text.len() {
            let complete =
                stops.iter().filter(|stop| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()));
            if let Some(length) = complete.map(String::len).max() {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn a_stop_string_never_leaks_its_prefix() {
        assert_eq!(run(&["\nUser:"], &["Hi", "\n", "Us", "er", ":"]).0.concat(), "Hi");
    }

    #[test]
    fn text_that_cannot_become_a_stop_is_not_held() {
        assert_eq!(run(&["<end>"], &["a < b", " and", " <e"]).0, ["a < b", " and", " "]);
    }

    #[test]
    fn held_text_is_released_when_the_stop_does_not_come() {
        let (emitted, held, stopped) = run(&["<end>"], &["a<en"]);
        assert_eq!((emitted.concat().as_str(), held.as_str(), stopped), ("a", "<en", false));
    }

    #[test]
    fn nothing_comes_out_after_the_stop() {
        assert_eq!(run(&["."], &["one.two", "three"]), (vec!["one".into(), String::new()], String::new(), true));
    }

    #[test]
    fn a_stop_string_does_not_go_on_behind_an_interruption() {
        let mut watched = StopStrings::new(vec!["END".to_owned()]);
        assert_eq!(watched.push("xEN"), Emit { text: "x".to_owned(), stopped: false });
        assert_eq!(watched.interrupt(), "EN");
        assert_eq!(watched.push("D"), Emit { text: "D".to_owned(), stopped: false });
        assert!(watched.push("END").stopped);
    }

    #[test]
    fn an_empty_stop_string_stops_nothing() {
        assert_eq!(run(&[""], &["a"]), (vec!["a".into()], String::new(), false));
    }

    #[test]
    fn every_split_of_a_text_gives_the_same_answer() {
        let text = "ab\u{e9}\u{1f600}aab\u{e9}b";
        for stops in [vec!["aab"], vec!["\u{1f600}a", "b\u{e9}b"], vec!["\u{e9}\u{1f600}aa", "\u{1f600}"], vec!["zz"]] {
            let owned: Vec<String> = stops.iter().map(ToString::to_string).collect();
            for first in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                for second in (first..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                    let (emitted, held, stopped) =
                        run(&stops, &[&text[..first], &text[first..second], &text[second..]]);
                    assert_eq!(
                        (emitted.concat() + &held, stopped),
                        oracle(&owned, text),
                        "{stops:?} at {first}, {second}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_in_any_pieces_agrees_with_the_whole(
            stops in prop::collection::vec("[ab\u{e9}\u{1f600}]{0,4}", 0..4),
            pieces in prop::collection::vec("[ab\u{e9}\u{1f600}]{0,5}", 0..12),
        ) {
            let mut watched = StopStrings::new(stops.clone());
            let mut shown = String::new();
            let mut stopped = false;
            let (expected, expected_stop) = oracle(&stops, &pieces.concat());
            for piece in &pieces {
                let emit = watched.push(piece);
                shown.push_str(&emit.text);
                stopped |= emit.stopped;
                prop_assert!(expected.starts_with(&shown), "leaked {shown:?}, expected {expected:?}");
            }
            shown.push_str(&watched.finish());
            prop_assert_eq!((shown, stopped), (expected, expected_stop));
        }
    }
}
