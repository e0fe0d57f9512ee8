//! From the form that a client asks for to what restricts a row. It owns the translation between the wire's words and
//! `grammar`'s, and when a model's tokens are indexed: with the first request that needs it, because most servers never
//! get one and the index takes memory. It refuses to know parsers and masks.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::api::error::Invalid;
use crate::api::form::{Form, Restriction};
use crate::grammar::{Budget, Compiled, Fault, GrammarError, Pool, Vocabulary, Wanted, Worker, compile};
use crate::http::error::Problem;
use crate::job::{Constraint, Failure};
use crate::text::Text;

/// When grammars wait for threads, they are free again this soon.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Compiles what clients want for one model.
pub struct Constrainer {
    text: Arc<Text>,
    /// Made when first used; what went wrong then goes wrong again.
    tools: OnceLock<Result<Tools, String>>,
}

/// What compiling and following a grammar takes.
struct Tools {
    vocabulary: Arc<Vocabulary>,
    pool: Pool,
    worker: Worker,
}

/// A form that was compiled; any number of answers may follow it.
#[derive(Debug)]
pub(crate) struct Restricted {
    constrainer: Arc<Constrainer>,
    compiled: Compiled,
}

impl Constrainer {
    /// For a model that speaks like this.
    #[must_use]
    pub fn new(text: Arc<Text>) -> Self {
        Self { text, tools: OnceLock::new() }
    }

    /// Compiles what is asked for. Blocks for as long as the budget of grammars says, and for the index at first.
    pub(crate) fn restrict(
        self: &Arc<Self>,
        restriction: Restriction,
        logit_width: u32,
    ) -> Result<Restricted, Problem> {
        let tools = self.tools(logit_width)?;
        let field = restriction.field;
        let compiled = compile(&tools.pool, &tools.vocabulary, wanted(restriction.form), Budget::REQUEST)
            .map_err(|error| problem(field, &error))?;
        Ok(Restricted { constrainer: Arc::clone(self), compiled })
    }

    fn tools(&self, logit_width: u32) -> Result<&Tools, Problem> {
        let tools = self.tools.get_or_init(|| Tools::new(&self.text, logit_width));
        tools.as_ref().map_err(|reason| Failure::Row(reason.clone()).into())
    }
}

impl fmt::Debug for Constrainer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Constrainer").field("used", &self.tools.get().is_some()).finish_non_exhaustive()
    }
}

impl Tools {
    fn new(text: &Text, logit_width: u32) -> Result<Self, String> {
        let tokenizer = text.tokenizer();
        let bytes_of = |id| tokenizer.token_bytes(id).map(<[u8]>::to_vec);
        let vocabulary = Vocabulary::new(logit_width, bytes_of, |id| tokenizer.is_control(id), text.end_ids())
            .map_err(|error| error.to_string())?;
        let thread = |error: std::io::Error| format!("no thread for grammars: {error}");
        Ok(Self {
            vocabulary: Arc::new(vocabulary),
            pool: Pool::start().map_err(thread)?,
            worker: Worker::start().map_err(thread)?,
        })
    }
}

impl Restricted {
    /// What restricts one answer, from its beginning.
    pub(crate) fn constraint(&self) -> Box<dyn Constraint> {
        let tools = self.constrainer.tools.get().and_then(|tools| tools.as_ref().ok());
        tools.expect("made before anything was compiled").worker.constraint(&self.compiled)
    }
}

fn wanted(form: Form) -> Wanted {
    match form {
        Form::JsonObject => Wanted::JsonObject,
        Form::JsonSchema(schema) => Wanted::JsonSchema(schema),
        Form::Regex(regex) => Wanted::Regex(regex),
        Form::Lark(grammar) => Wanted::Lark(grammar),
        Form::Choice(texts) => Wanted::Choice(texts),
    }
}

fn problem(field: &str, error: &GrammarError) -> Problem {
    match error.fault() {
        Fault::Client => Invalid::value(field, format!("`{field}`: {error}")).into(),
        Fault::Busy => Problem::QueueFull { retry_after_seconds: RETRY_AFTER_SECONDS },
        Fault::Ours => Failure::Row(error.to_string()).into(),
    }
}
