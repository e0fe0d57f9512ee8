//! Lark, the language in which llguidance reads grammars: what of a client's grammar is refused before it is compiled, and
//! how a text is quoted in one of ours. It refuses to know what rules mean.
//!
//! Refused is what would get around the checks of JSON schemas (`%json`), what would allow control tokens or bytes that
//! are no text, what only asks for other sampling, which nobody would notice is not done, and what recurses too deep.

use crate::grammar::budget::{LARK_BYTES_MAX, LARK_DEPTH_MAX, LARK_RULES_MAX};
use crate::grammar::error::{GrammarError, Source};

/// Attributes of a rule that ask for more than a restriction of tokens. `stop` would take text back that was sent.
const ATTRIBUTES_REFUSED: [&str; 3] = ["stop", "stop_capture", "temperature"];

/// Directives that get around the checks of this module and of `schema`.
const DIRECTIVES_REFUSED: [&str; 2] = ["json", "llguidance"];

/// A text as a Lark string.
pub(crate) fn quote(text: &str) -> String {
    // JSON's escapes are Lark's, but JSON leaves the delete character alone.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Checks a client's grammar.
pub(crate) fn check(source: &str) -> Result<(), GrammarError> {
    if source.len() > LARK_BYTES_MAX {
        let bytes = source.len();
        return Err(GrammarError::TooLarge { source_kind: Source::Lark, bytes, limit: LARK_BYTES_MAX });
    }
    let refused = |what: &str| {
        Err(GrammarError::Invalid { source_kind: Source::Lark, reason: format!("{what} is not supported") })
    };
    let too_much = |unit, limit| Err(GrammarError::TooMuch { source_kind: Source::Lark, unit, limit });
    let (mut rules, mut depth) = (0, 0_u64);
    let mut pieces = Pieces { rest: source }.peekable();
    while let Some(piece) = pieces.next() {
        match (piece, pieces.peek()) {
            (Piece::Mark('%'), Some(Piece::Word(word))) if DIRECTIVES_REFUSED.contains(word) => {
                return refused(&format!("`%{word}`"));
            }
            (Piece::Word(word), Some(Piece::Mark('='))) if ATTRIBUTES_REFUSED.contains(&word) => {
                return refused(&format!("the attribute `{word}`"));
            }
            (Piece::Mark('<'), _) => return refused("a special token"),
            (Piece::Mark(':'), _) => rules += 1,
            (Piece::Mark('(' | '[' | '{'), _) => depth += 1,
            (Piece::Mark(')' | ']' | '}'), _) => depth = depth.saturating_sub(1),
            (Piece::Word(_) | Piece::Mark(_), _) => {}
        }
        if rules > LARK_RULES_MAX {
            return too_much("rules", LARK_RULES_MAX);
        }
        if depth > LARK_DEPTH_MAX {
            return too_much("levels of brackets", LARK_DEPTH_MAX);
        }
    }
    Ok(())
}

/// What a grammar consists of besides strings, regular expressions, comments and spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece<'a> {
    /// A name.
    Word(&'a str),
    /// Any other character.
    Mark(char),
}

/// Reads a grammar piece by piece.
struct Pieces<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        loop {
            let text = self.rest;
            let first = text.chars().next()?;
            let length = match first {
                '"' => 1 + literal_len(&text[1..], '"'),
                '#' => text.find('\n').unwrap_or(text.len()),
                '/' if text.starts_with("//") => text.find('\n').unwrap_or(text.len()),
                '/' => 1 + literal_len(&text[1..], '/'),
                _ if first.is_whitespace() => first.len_utf8(),
                _ if is_word(first) => {
                    let length = text.find(|character| !is_word(character)).unwrap_or(text.len());
                    self.rest = &text[length..];
                    return Some(Piece::Word(&text[..length]));
                }
                _ => {
                    self.rest = &text[first.len_utf8()..];
                    return Some(Piece::Mark(first));
                }
            };
            self.rest = &text[length..];
        }
    }
}

fn is_word(character: char) -> bool {
    character == '_' || character.is_ascii_alphanumeric()
}

/// How long a literal is behind its opening quote, the closing one included. One that is not closed ends with the text:
/// llguidance finds that mistake.
fn literal_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + character.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_may_say_anything() {
        let source = r#"
            start: "%json <|im_end|> \" ((((" /<[a-z]+> %llguidance \/ ((/ stop // temperature=1
            stop: "x" # %json {}
        "#;
        assert_eq!(check(source), Ok(()));
    }

    #[test]
    fn what_gets_around_the_checks_is_refused_by_name() {
        let cases = [
            ("start: %json {\"not\": {}}", "`%json`"),
            ("%llguidance {\"allow_invalid_utf8\": true}\nstart: \"a\"", "`%llguidance`"),
            ("start: % json {}", "`%json`"),
            ("start: <|im_end|>", "a special token"),
            ("start: <[0-100]>", "a special token"),
            ("start[stop=\"x\"]: /a+/", "the attribute `stop`"),
            ("start[lazy, temperature = 0.5]: /a+/", "the attribute `temperature`"),
        ];
        for (source, what) in cases {
            let message = check(source).expect_err("refused").to_string();
            assert_eq!(message, format!("the Lark grammar is not valid: {what} is not supported"));
        }
    }

    #[test]
    fn sizes_have_limits_with_numbers() {
        let cases = [
            (" ".repeat(LARK_BYTES_MAX + 1), "the limit is 65536"),
            ("a: \"b\"\n".repeat(1_001), "more than 1000 rules"),
            (format!("start: {}", "(".repeat(65)), "more than 64 levels of brackets"),
        ];
        for (source, words) in cases {
            let message = check(&source).expect_err("refused").to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn an_unfinished_literal_ends_with_the_text() {
        for source in ["start: \"a", "start: /a", "start: \"\\", "//", "#", "\u{e9}"] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }
}
