//! Shapes as Lark grammars. What of a shape has no JSON in it becomes one regular expression, in which alternatives may
//! begin alike and still all count: llguidance's lexer takes the longest word it can, which is exact within one word and
//! only there. It refuses to know models and their formats.

use crate::grammar::error::{GrammarError, Source};
use crate::grammar::lark::quote;
use crate::grammar::schema::{self, Checked};
use crate::text::shape::Shape;

/// A shape as llguidance reads it.
#[derive(Debug)]
pub(crate) struct Written {
    /// The grammar, which begins at `start`.
    pub(crate) lark: String,
    /// The JSON schemas that it calls `@json_0`, `@json_1` and so on.
    pub(crate) schemas: Vec<Checked>,
}

/// Writes a shape as a grammar.
pub(crate) fn write(shape: &Shape) -> Result<Written, GrammarError> {
    let mut writer = Writer { lark: String::new(), schemas: Vec::new(), names: 0 };
    let name = match writer.part(shape)? {
        Part::Word(name) | Part::Rule(name) => name,
    };
    Ok(Written { lark: format!("start: {name}\n{}", writer.lark), schemas: writer.schemas })
}

/// The name under which a part of a shape was written.
enum Part {
    /// A regular expression.
    Word(String),
    /// A rule of words and JSON.
    Rule(String),
}

struct Writer {
    /// The definitions so far, one a line, each of names and literals only, because Lark nests brackets thirty deep.
    lark: String,
    schemas: Vec<Checked>,
    /// How many names were given.
    names: u32,
}

impl Writer {
    fn part(&mut self, shape: &Shape) -> Result<Part, GrammarError> {
        match shape {
            Shape::Literal(text) => Ok(self.word(&quote(text))),
            Shape::Json(schema) => {
                let name = json_name(self.schemas.len());
                self.schemas.push(schema::check(schema)?);
                Ok(self.rule(&format!("@{name}")))
            }
            Shape::Until(text) => {
                let text = quote(text);
                // Ends with the text, and nothing shorter does.
                Ok(self.word(&format!("/(?s:.*)/ {text} & ~(/(?s:.*)/ {text} /(?s:.+)/)")))
            }
            Shape::Sequence(items) => self.sequence(items),
            Shape::Choice(items) => self.choice(items),
            Shape::Repeat { item, separator, min, max } => {
                let item = self.part(item)?;
                self.repeat(&item, separator, *min, *max)
            }
        }
    }

    /// One after the other, neighbours without JSON as one word.
    fn sequence(&mut self, items: &[Shape]) -> Result<Part, GrammarError> {
        let mut names = Vec::new();
        let mut words = Vec::new();
        for item in items {
            match self.part(item)? {
                Part::Word(name) => words.push(name),
                Part::Rule(name) => {
                    names.extend(self.joined(&mut words));
                    names.push(name);
                }
            }
        }
        if names.is_empty() {
            return Ok(if words.is_empty() { self.word("\"\"") } else { self.word(&words.join(" ")) });
        }
        names.extend(self.joined(&mut words));
        Ok(self.rule(&names.join(" ")))
    }

    /// Words in a row as one; `None` when there are none.
    fn joined(&mut self, words: &mut Vec<String>) -> Option<String> {
        match std::mem::take(words).as_slice() {
            [] => None,
            [word] => Some(word.clone()),
            several => Some(self.define("W", &several.join(" "))),
        }
    }

    /// One of these, those without JSON as one word.
    fn choice(&mut self, items: &[Shape]) -> Result<Part, GrammarError> {
        let (mut words, mut rules) = (Vec::new(), Vec::new());
        for item in items {
            match self.part(item)? {
                Part::Word(name) => words.push(name),
                Part::Rule(name) => rules.push(name),
            }
        }
        if words.is_empty() && rules.is_empty() {
            return Err(GrammarError::Invalid {
                source_kind: Source::Shape,
                reason: "nothing to choose from".to_owned(),
            });
        }
        let words = words.join(" | ");
        if rules.is_empty() {
            return Ok(self.word(&words));
        }
        if !words.is_empty() {
            rules.push(self.define("W", &words));
        }
        Ok(self.rule(&rules.join(" | ")))
    }

    fn repeat(&mut self, item: &Part, separator: &str, min: u32, max: Option<u32>) -> Result<Part, GrammarError> {
        if max.is_some_and(|max| max < min) {
            let reason = format!("a repetition of at least {min} and at most {} times", max.unwrap_or(0));
            return Err(GrammarError::Invalid { source_kind: Source::Shape, reason });
        }
        if max == Some(0) {
            return Ok(self.word("\"\""));
        }
        // The first one stands alone, each further one behind a separator. Lark has no `{0}`.
        let further = (min.max(1) - 1, max.map(|max| max - 1));
        let times = match further {
            (_, Some(0)) => None,
            (min, Some(max)) => Some(format!("{{{min},{max}}}")),
            (min, None) => Some(format!("{{{min},}}")),
        };
        let (name, prefix) = match item {
            Part::Word(name) => (name, "W"),
            Part::Rule(name) => (name, "r"),
        };
        let mut text = name.clone();
        if let Some(times) = times {
            let next = self.define(prefix, &format!("{} {name}", quote(separator)));
            text = format!("{name} {next}{times}");
        }
        if min == 0 {
            let some = self.define(prefix, &text);
            text = format!("{some}?");
        }
        Ok(match item {
            Part::Word(_) => self.word(&text),
            Part::Rule(_) => self.rule(&text),
        })
    }

    fn word(&mut self, text: &str) -> Part {
        Part::Word(self.define("W", text))
    }

    fn rule(&mut self, text: &str) -> Part {
        Part::Rule(self.define("r", text))
    }

    /// Gives a text a name. Lark takes names of capitals for words, and others for rules.
    fn define(&mut self, prefix: &str, text: &str) -> String {
        self.names += 1;
        let name = format!("{prefix}{}", self.names);
        self.lark.push_str(&format!("{name}: {text}\n"));
        name
    }
}

/// What the grammar calls the schema of this number.
pub(crate) fn json_name(index: usize) -> String {
    format!("json_{index}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(shape: &Shape) -> String {
        write(shape).expect("a valid shape").lark
    }

    #[test]
    fn what_has_no_json_is_one_word() {
        let literal = |text: &str| Shape::Literal(text.to_owned());
        let shape = Shape::Sequence(vec![
            Shape::Choice(vec![literal("a"), literal("ab")]),
            Shape::Repeat { item: Box::new(literal("c")), separator: ",".to_owned(), min: 0, max: None },
        ]);
        let expected = [
            "start: W8",
            "W1: \"a\"",
            "W2: \"ab\"",
            "W3: W1 | W2",
            "W4: \"c\"",
            "W5: \",\" W4",
            "W6: W4 W5{0,}",
            "W7: W6?",
            "W8: W3 W7",
            "",
        ];
        assert_eq!(written(&shape), expected.join("\n"));
    }

    #[test]
    fn json_is_a_grammar_of_its_own_between_words() {
        let shape = Shape::Sequence(vec![
            Shape::Literal("<a>".to_owned()),
            Shape::Literal("<b>".to_owned()),
            Shape::Json(json!({"type": "object"})),
            Shape::Literal("</a>".to_owned()),
        ]);
        let expected =
            ["start: r6", "W1: \"<a>\"", "W2: \"<b>\"", "r3: @json_0", "W4: W1 W2", "W5: \"</a>\"", "r6: W4 r3 W5", ""];
        assert_eq!(written(&shape), expected.join("\n"));
        assert_eq!(write(&shape).expect("a valid shape").schemas.len(), 1);
    }

    #[test]
    fn an_impossible_shape_is_refused() {
        let item = Box::new(Shape::Literal("a".to_owned()));
        let backwards = Shape::Repeat { item, separator: String::new(), min: 3, max: Some(2) };
        for shape in [Shape::Choice(Vec::new()), backwards, Shape::Json(json!({"not": {}}))] {
            assert!(write(&shape).is_err(), "{shape:?}");
        }
    }
}
