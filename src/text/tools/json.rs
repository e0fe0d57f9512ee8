//! JSON that comes character by character: a check of an object's text that knows at each character whether it can
//! still be one, and a reader of the characters that a string stands for. They keep no text; where a text goes is their
//! callers' business. A character costs constant work, and an object's memory is one byte a level of nesting.

/// Deepest nesting; serde_json, which clients of ours may read with, stops there too.
const DEPTH_MAX: usize = 127;

/// What a character is to an object's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// A part of it.
    More,
    /// Its last character.
    Done,
    /// No JSON.
    Bad,
}

/// Whitespace between the words of JSON, which is what formats put between the words of a call, too.
pub(crate) fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r')
}

/// The literal that a text is, with Python's words for it, which templates print, read as JSON's.
pub(crate) fn literal(text: &str) -> &str {
    match text.trim_ascii() {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    }
}

/// A string's text between its quotes.
pub(crate) fn escaped(text: &str) -> String {
    let mut quoted = serde_json::Value::from(text).to_string();
    quoted.pop();
    quoted.split_off(1)
}

/// Where in an object's text we are.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// The lists and objects around, the innermost last.
    open: Vec<Bracket>,
    /// What may come next.
    at: At,
}

/// What is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bracket {
    /// `[`
    List,
    /// `{`
    Object,
}

/// What may come next.
#[derive(Debug, Clone, Copy)]
enum At {
    /// A value, or `]`.
    FirstItem,
    /// A value.
    Value,
    /// A key, or `}`.
    FirstKey,
    /// A key.
    Key,
    /// `:`
    Colon,
    /// `,` or what closes the innermost bracket.
    Next,
    /// More of a string.
    Text(Role),
    /// What follows a backslash.
    Escape(Role),
    /// So many digits of `\u`.
    Unicode(Role, u8),
    /// The rest of `true`, `false` or `null`.
    Word(&'static str),
    /// More of a number.
    Number(Number),
}

/// What a string is.
#[derive(Debug, Clone, Copy)]
enum Role {
    Key,
    Value,
}

/// How far a number has come.
#[derive(Debug, Clone, Copy)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl Scanner {
    /// Stands behind the `{` that opens the object.
    pub fn new() -> Self {
        Self { open: vec![Bracket::Object], at: At::FirstKey }
    }

    /// Takes the next character. Called no more after [`Scan::Done`] or [`Scan::Bad`].
    pub fn step(&mut self, character: char) -> Scan {
        let next = match (self.at, character) {
            (At::Text(role), _) => text(role, character),
            (At::Escape(role), 'u') => Some(At::Unicode(role, 4)),
            (At::Escape(role), '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Some(At::Text(role)),
            (At::Unicode(role, left), '0'..='9' | 'a'..='f' | 'A'..='F') => {
                Some(if left == 1 { At::Text(role) } else { At::Unicode(role, left - 1) })
            }
            (At::Word(rest), _) => match rest.strip_prefix(character) {
                Some("") => Some(At::Next),
                rest => rest.map(At::Word),
            },
            (At::Number(number), _) => match number.step(character) {
                Some(number) => Some(At::Number(number)),
                None if number.is_whole() => {
                    self.at = At::Next;
                    return self.step(character);
                }
                None => None,
            },
            (at, _) if is_blank(character) => matches_word(at).then_some(at),
            (At::FirstItem, ']') => return self.close(Bracket::List),
            (At::FirstKey, '}') => return self.close(Bracket::Object),
            (At::Next, ']') => return self.close(Bracket::List),
            (At::Next, '}') => return self.close(Bracket::Object),
            (At::FirstItem | At::Value, _) => self.value(character),
            (At::FirstKey | At::Key, '"') => Some(At::Text(Role::Key)),
            (At::Colon, ':') => Some(At::Value),
            (At::Next, ',') => self.open.last().map(|bracket| match bracket {
                Bracket::List => At::Value,
                Bracket::Object => At::Key,
            }),
            (At::FirstKey | At::Key | At::Colon | At::Next | At::Escape(_) | At::Unicode(..), _) => None,
        };
        match next {
            Some(at) => {
                self.at = at;
                Scan::More
            }
            None => Scan::Bad,
        }
    }

    fn value(&mut self, character: char) -> Option<At> {
        match character {
            '"' => Some(At::Text(Role::Value)),
            't' => Some(At::Word("rue")),
            'f' => Some(At::Word("alse")),
            'n' => Some(At::Word("ull")),
            '-' => Some(At::Number(Number::Minus)),
            '0' => Some(At::Number(Number::Zero)),
            '1'..='9' => Some(At::Number(Number::Integer)),
            '{' | '[' if self.open.len() == DEPTH_MAX => None,
            '{' => {
                self.open.push(Bracket::Object);
                Some(At::FirstKey)
            }
            '[' => {
                self.open.push(Bracket::List);
                Some(At::FirstItem)
            }
            _ => None,
        }
    }

    fn close(&mut self, bracket: Bracket) -> Scan {
        if self.open.pop() != Some(bracket) {
            return Scan::Bad;
        }
        self.at = At::Next;
        if self.open.is_empty() { Scan::Done } else { Scan::More }
    }
}

fn text(role: Role, character: char) -> Option<At> {
    match (character, role) {
        ('"', Role::Key) => Some(At::Colon),
        ('"', Role::Value) => Some(At::Next),
        ('\\', _) => Some(At::Escape(role)),
        ('\0'..='\u{1f}', _) => None,
        _ => Some(At::Text(role)),
    }
}

/// Whether whitespace may stand here.
fn matches_word(at: At) -> bool {
    matches!(at, At::FirstItem | At::Value | At::FirstKey | At::Key | At::Colon | At::Next)
}

impl Number {
    /// How far it is with one more character; `None` when that is no part of it.
    fn step(self, character: char) -> Option<Self> {
        match (self, character) {
            (Self::Minus, '0') => Some(Self::Zero),
            (Self::Minus, '1'..='9') | (Self::Integer, '0'..='9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, '.') => Some(Self::Point),
            (Self::Point | Self::Fraction, '0'..='9') => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, 'e' | 'E') => Some(Self::Exponent),
            (Self::Exponent, '+' | '-') => Some(Self::Sign),
            (Self::Exponent | Self::Sign | Self::Power, '0'..='9') => Some(Self::Power),
            _ => None,
        }
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::Power)
    }
}

/// What a character of a string's JSON text says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// The string goes on with this.
    Char(char),
    /// An escape that is not complete.
    Part,
    /// The quote that ends the string.
    End,
    /// No string.
    Bad,
}

/// A string's JSON text, behind the quote that opens it.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// How far an escape has come.
    escape: Escape,
}

/// How far an escape has come.
#[derive(Debug, Clone, Copy, Default)]
enum Escape {
    /// There is none.
    #[default]
    None,
    /// The backslash.
    Begun,
    /// So many digits of `\u`, and their value; `high` is the surrogate that came before.
    Unicode { high: Option<u32>, digits: u8, value: u32 },
    /// A high surrogate, which a low one must follow.
    High(u32),
    /// The same and a backslash.
    HighBegun(u32),
}

impl Text {
    /// Takes the next character. Called no more after [`Read::End`] or [`Read::Bad`].
    pub fn step(&mut self, character: char) -> Read {
        let escape = std::mem::take(&mut self.escape);
        match (escape, character) {
            (Escape::None, '"') => Read::End,
            (Escape::None, '\\') => self.part(Escape::Begun),
            (Escape::None, '\0'..='\u{1f}') => Read::Bad,
            (Escape::None, _) => Read::Char(character),
            (Escape::Begun, 'u') => self.part(Escape::Unicode { high: None, digits: 0, value: 0 }),
            (Escape::Begun, '"' | '\\' | '/') => Read::Char(character),
            (Escape::Begun, 'b') => Read::Char('\u{8}'),
            (Escape::Begun, 'f') => Read::Char('\u{c}'),
            (Escape::Begun, 'n') => Read::Char('\n'),
            (Escape::Begun, 'r') => Read::Char('\r'),
            (Escape::Begun, 't') => Read::Char('\t'),
            (Escape::High(high), '\\') => self.part(Escape::HighBegun(high)),
            (Escape::HighBegun(high), 'u') => self.part(Escape::Unicode { high: Some(high), digits: 0, value: 0 }),
            (Escape::Unicode { high, digits, value }, _) => match character.to_digit(16) {
                Some(digit) => self.digit(high, digits + 1, value << 4 | digit),
                None => Read::Bad,
            },
            (Escape::Begun | Escape::High(_) | Escape::HighBegun(_), _) => Read::Bad,
        }
    }

    fn part(&mut self, escape: Escape) -> Read {
        self.escape = escape;
        Read::Part
    }

    fn digit(&mut self, high: Option<u32>, digits: u8, value: u32) -> Read {
        if digits < 4 {
            return self.part(Escape::Unicode { high, digits, value });
        }
        match (high, value) {
            (None, 0xd800..=0xdbff) => self.part(Escape::High(value)),
            (None, _) => char::from_u32(value).map_or(Read::Bad, Read::Char),
            (Some(high), 0xdc00..=0xdfff) => {
                let value = 0x10000 + ((high - 0xd800) << 10) + (value - 0xdc00);
                char::from_u32(value).map_or(Read::Bad, Read::Char)
            }
            (Some(_), _) => Read::Bad,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// Whether the text is an object, and ends where it ends.
    fn is_object(text: &str) -> bool {
        let mut scanner = Scanner::new();
        let Some(rest) = text.strip_prefix('{') else { return false };
        let mut scans = Vec::new();
        for character in rest.chars() {
            scans.push(scanner.step(character));
            if !matches!(scans.last(), Some(Scan::More)) {
                break;
            }
        }
        scans.len() == rest.chars().count() && scans.last() == Some(&Scan::Done)
    }

    fn string(text: &str) -> Option<String> {
        let mut reader = Text::default();
        let (mut value, mut characters) = (String::new(), text.strip_prefix('"')?.chars());
        loop {
            match reader.step(characters.next()?) {
                Read::Char(character) => value.push(character),
                Read::Part => {}
                Read::End => return characters.next().is_none().then_some(value),
                Read::Bad => return None,
            }
        }
    }

    #[test]
    fn an_object_ends_with_its_own_brace() {
        let text = r#"{"a}\"": [{}, -0.5e+3, "]\u00e9\\", true, null], "b" : {"c": []} }"#;
        assert!(is_object(text));
        for end in (1..text.len()).filter(|&end| text.is_char_boundary(end)) {
            assert!(!is_object(&text[..end]), "{}", &text[..end]);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_object(&nested(DEPTH_MAX - 1)));
        assert!(!is_object(&nested(DEPTH_MAX)));
    }

    #[test]
    fn a_surrogate_alone_is_no_character() {
        assert_eq!(string(r#""\ud83d\ude00""#).as_deref(), Some("\u{1f600}"));
        assert_eq!(string(r#""\ud83d""#), None);
        assert_eq!(string(r#""\ud83d\u0041""#), None);
        assert_eq!(string(r#""\ude00""#), None);
    }

    proptest! {
        #[test]
        fn an_object_is_what_serde_json_reads_as_one(
            parts in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", " ", "\"", "\"a\"", "\\", "\\u00e9", "0", "-", "1", ".", "e", "+", "true",
                "null", "\"a\":", "\n", "{\"a\":1}", "\u{e9}",
            ]), 0..12),
        ) {
            let text = format!("{{{}}}", parts.concat());
            prop_assert_eq!(is_object(&text), serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn a_string_is_what_serde_json_reads(
            parts in prop::collection::vec(prop::sample::select(vec![
                "a", "\\", "\\n", "\\\"", "\\u", "d83d", "de00", "\\ud83d\\ude00", "0041", "\u{1f600}", "\t", "\\/", "u",
            ]), 0..8),
        ) {
            let text = format!("\"{}\"", parts.concat());
            prop_assert_eq!(string(&text), serde_json::from_str::<String>(&text).ok(), "{}", text);
        }

        #[test]
        fn an_escaped_text_reads_as_it_was(text in any::<String>()) {
            prop_assert_eq!(string(&format!("\"{}\"", escaped(&text))), Some(text));
        }
    }
}
