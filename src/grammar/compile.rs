//! From what a client wants to a grammar that rows can follow, within a budget and away from the caller's thread. It
//! refuses to know the wire: what comes in is already parsed.

use std::sync::Arc;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use crate::grammar::budget::{Budget, CHOICE_BYTES_MAX, REGEX_BYTES_MAX};
use crate::grammar::error::{GrammarError, Source, brief};
use crate::grammar::lark;
use crate::grammar::matcher::Row;
use crate::grammar::pool::{Late, Pool};
use crate::grammar::schema::{self, Checked};
use crate::grammar::shape::{self, json_name};
use crate::grammar::vocabulary::Vocabulary;
use crate::job::allows;
use crate::text::shape::Shape;

/// How many parts of a schema are compiled alone to find the one at fault.
const PARTS_TRIED_MAX: usize = 100;

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that this schema admits.
    JsonSchema(Value),
    /// A text that this regular expression matches as a whole.
    Regex(String),
    /// A text of this grammar, in llguidance's variant of Lark.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A text of this shape.
    Shape(Shape),
}

impl Wanted {
    fn source(&self) -> Source {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => Source::Schema,
            Self::Regex(_) => Source::Regex,
            Self::Lark(_) => Source::Lark,
            Self::Choice(_) => Source::Choice,
            Self::Shape(_) => Source::Shape,
        }
    }
}

/// A grammar that was compiled: any number of rows may follow it. Cheap to share, costs up to a few megabytes.
#[derive(Debug)]
pub struct Compiled {
    /// The beginning, of which each row gets a copy.
    beginning: Row,
}

impl Compiled {
    /// A row at the beginning.
    pub(crate) fn row(&self) -> Row {
        self.beginning.fork()
    }
}

/// Compiles what is wanted. Blocks for at most the budget's wall time, and as long again for a free thread.
///
/// # Errors
/// When it is not supported, not valid or too large, which are the client's to mend; when no thread is free; when the
/// compiler fails.
pub fn compile(
    pool: &Pool,
    vocabulary: &Arc<Vocabulary>,
    wanted: Wanted,
    budget: Budget,
) -> Result<Compiled, GrammarError> {
    let source_kind = wanted.source();
    let vocabulary = Arc::clone(vocabulary);
    match pool.run(budget.wall, move || build(&vocabulary, wanted, budget)) {
        Ok(built) => built,
        Err(Late::Slow) => Err(GrammarError::Slow { source_kind, limit: budget.wall }),
        Err(Late::Busy) => Err(GrammarError::Busy),
        Err(Late::Panicked) => Err(GrammarError::Crashed("it panicked".to_owned())),
    }
}

/// A grammar as llguidance reads it, and what of it came from JSON schemas.
struct Plan {
    grammar: TopLevelGrammar,
    schemas: Vec<Checked>,
}

fn build(vocabulary: &Arc<Vocabulary>, wanted: Wanted, budget: Budget) -> Result<Compiled, GrammarError> {
    let source_kind = wanted.source();
    let Plan { grammar, schemas } = plan(wanted)?;
    let parser = vocabulary.parser(grammar, budget.limits()).map_err(|said| {
        schemas
            .iter()
            .find_map(|schema| part_at_fault(vocabulary, schema, budget))
            .unwrap_or_else(|| GrammarError::told(source_kind, &said, budget))
    })?;
    let invalid = |said: String| GrammarError::told(source_kind, &said, budget);
    let beginning = Row::new(parser, Arc::clone(vocabulary)).map_err(invalid)?;
    // What fails at the first token of any answer is told now, while it can still be a status.
    if let Some(token) = first_word(&beginning, vocabulary) {
        beginning.fork().advance(token).map_err(invalid)?;
    }
    Ok(Compiled { beginning })
}

fn plan(wanted: Wanted) -> Result<Plan, GrammarError> {
    match wanted {
        Wanted::JsonObject => plan(Wanted::JsonSchema(json!({"type": "object"}))),
        Wanted::JsonSchema(schema) => {
            let checked = schema::check(&schema)?;
            let grammar = TopLevelGrammar::from_json_schema(checked.for_compiler());
            Ok(Plan { grammar, schemas: vec![checked] })
        }
        Wanted::Regex(regex) => {
            check_regex(&regex)?;
            // Lark takes two slashes for a comment.
            let regex = if regex.is_empty() { "()".to_owned() } else { regex };
            Ok(Plan { grammar: TopLevelGrammar::from_regex(&regex), schemas: Vec::new() })
        }
        Wanted::Lark(source) => {
            lark::check(&source)?;
            Ok(Plan { grammar: TopLevelGrammar::from_lark(source), schemas: Vec::new() })
        }
        Wanted::Choice(texts) => {
            let bytes = texts.iter().map(String::len).sum();
            if bytes > CHOICE_BYTES_MAX {
                return Err(GrammarError::TooLarge { source_kind: Source::Choice, bytes, limit: CHOICE_BYTES_MAX });
            }
            if texts.is_empty() {
                let reason = "it is empty".to_owned();
                return Err(GrammarError::Invalid { source_kind: Source::Choice, reason });
            }
            plan(Wanted::Shape(Shape::Choice(texts.into_iter().map(Shape::Literal).collect())))
        }
        Wanted::Shape(shape) => {
            let written = shape::write(&shape)?;
            let mut grammar = TopLevelGrammar::from_lark(written.lark);
            for (index, schema) in written.schemas.iter().enumerate() {
                let json = GrammarWithLexer::from_json_schema(schema.for_compiler());
                grammar.grammars.push(GrammarWithLexer { name: Some(json_name(index)), ..json });
            }
            Ok(Plan { grammar, schemas: written.schemas })
        }
    }
}

fn check_regex(regex: &str) -> Result<(), GrammarError> {
    let bytes = regex.len();
    if bytes > REGEX_BYTES_MAX {
        return Err(GrammarError::TooLarge { source_kind: Source::Regex, bytes, limit: REGEX_BYTES_MAX });
    }
    // llguidance would drop it without a word.
    let backslashes = regex.bytes().rev().take_while(|&byte| byte == b'\\').count();
    if backslashes % 2 == 1 {
        let reason = "it ends with a backslash that escapes nothing".to_owned();
        return Err(GrammarError::Invalid { source_kind: Source::Regex, reason });
    }
    Ok(())
}

/// The innermost part of a schema that does not compile alone. llguidance does not say where it failed.
fn part_at_fault(vocabulary: &Vocabulary, schema: &Checked, budget: Budget) -> Option<GrammarError> {
    schema.parts().take(PARTS_TRIED_MAX).find_map(|(path, part)| {
        let said = vocabulary.parser(TopLevelGrammar::from_json_schema(part), budget.limits()).err()?;
        match GrammarError::told(Source::Schema, &said, budget) {
            GrammarError::Invalid { .. } => Some(GrammarError::Part { path: path.to_owned(), reason: brief(&said) }),
            limit => Some(limit),
        }
    })
}

/// A token that an answer may begin with, if it need not be over at once.
fn first_word(row: &Row, vocabulary: &Vocabulary) -> Option<u32> {
    (0..vocabulary.width()).find(|&token| allows(row.mask(), token) && !allows(vocabulary.ends(), token))
}
