//! From what a client asks of an answer's tokens to what restricts a row: a form, calls that are required, a budget of
//! thinking. It owns the translation between the wire's words and `grammar`'s, and when a model's tokens are indexed: with
//! the first request that needs it, because most servers never get one and the index takes memory. It refuses to know
//! parsers and masks.
//!
//! What is restricted is the answer: a model that thinks does so freely before it. A form and tools that may be called
//! allow either.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::json;

use crate::api::chat::ThinkingBudget;
use crate::api::error::Invalid;
use crate::api::form::{Form, Restriction};
use crate::grammar::{
    self, After, Beginning, Budget, Compiled, Fault, GrammarError, Marker, Pool, Vocabulary, Wanted, Worker, compile,
};
use crate::http::error::Problem;
use crate::job::{Constraint, Failure};
use crate::text::Text;
use crate::text::channel::format::{Opening, Turn};
use crate::text::shape::Shape;
use crate::text::tokenizer;
use crate::text::tools::{Required, Tool, ToolFormat};

/// When grammars wait for threads, they are free again this soon.
const RETRY_AFTER_SECONDS: u32 = 1;
/// Most tokens of what closes thinking, or opens it; those in use have up to ten.
const CLOSING_TOKENS_MAX: u32 = 64;

/// What a request asks of its answers' tokens.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    /// The form of the content.
    pub(crate) restriction: Option<Restriction>,
    /// Tools that may or must be called, with the format of calls.
    pub(crate) calls: Option<Calls<'a>>,
    /// How long the model may think.
    pub(crate) budget: Option<ThinkingBudget>,
    /// How the prompt leaves an answer to begin; `None` when it only goes on with a text, and nothing is thought before.
    pub(crate) opening: Option<Opening>,
}

/// Tools that may or must be called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls<'a> {
    /// How the model writes calls.
    pub(crate) format: ToolFormat,
    /// The request's tools.
    pub(crate) tools: &'a [Tool],
    /// Which calls there must be, if there are any.
    pub(crate) required: Required<'a>,
    /// There must be calls.
    pub(crate) must: bool,
}

/// Compiles what clients want for one model.
pub struct Constrainer {
    text: Arc<Text>,
    /// Made when first used; what went wrong then goes wrong again.
    workshop: OnceLock<Result<Workshop, String>>,
}

/// What compiling and following a grammar takes.
struct Workshop {
    vocabulary: Arc<Vocabulary>,
    pool: Pool,
    worker: Worker,
    /// What ends thinking, for a model that thinks.
    marker: Option<Arc<Marker>>,
}

/// What restricts the answers of a request; any number of them may follow it.
#[derive(Debug)]
pub(crate) struct Restricted {
    constrainer: Arc<Constrainer>,
    /// What the answer must look like.
    compiled: Option<Compiled>,
    /// What comes before it.
    thinking: Option<Thinking>,
}

/// Thinking that comes, or may come, before an answer.
#[derive(Debug)]
struct Thinking {
    marker: Arc<Marker>,
    beginning: Beginning,
    /// Most tokens of it, and those that close it then.
    budget: Option<(u32, Vec<u32>)>,
}

impl Constrainer {
    /// For a model that speaks like this.
    #[must_use]
    pub fn new(text: Arc<Text>) -> Self {
        Self { text, workshop: OnceLock::new() }
    }

    /// Compiles what is asked for; `None` when that restricts nothing. Blocks for as long as the budget of grammars says,
    /// and for the index at first.
    pub(crate) fn restrict(
        self: &Arc<Self>,
        asked: Asked<'_>,
        logit_width: u32,
    ) -> Result<Option<Restricted>, Problem> {
        let Asked { restriction, calls, budget, opening } = asked;
        let wanted = wanted(restriction, calls)?;
        if wanted.is_none() && budget.is_none() {
            return Ok(None);
        }
        // There a call is a message like the answer, and nothing tells that thinking is over before it.
        let harmony = calls.filter(|calls| calls.format == ToolFormat::Harmony);
        if let Some(ThinkingBudget { field, .. }) = budget.filter(|_| harmony.is_some()) {
            let message = format!("`{field}` cannot be combined with `tools` for this model");
            return Err(Invalid::value(field, message).into());
        }
        let workshop = self.workshop(logit_width)?;
        // The shape of its calls has the thinking in it.
        let thinks_in_shape = harmony.is_some_and(|calls| calls.must);
        let thinking = if thinks_in_shape { None } else { self.thinking(workshop, opening, budget)? };
        let compiled = wanted.map(|(field, wanted)| {
            compile(&workshop.pool, &workshop.vocabulary, wanted, Budget::REQUEST)
                .map_err(|error| problem(field, &error))
        });
        let compiled = compiled.transpose()?;
        let restricts = compiled.is_some() || thinking.is_some();
        Ok(restricts.then(|| Restricted { constrainer: Arc::clone(self), compiled, thinking }))
    }

    /// Whether a budget of thinking would have an effect.
    pub(crate) fn knows_thinking(&self, opening: Opening) -> bool {
        self.beginning(Some(opening)).is_some()
    }

    /// How an answer begins to think; `None` when it does not.
    fn beginning(&self, opening: Option<Opening>) -> Option<Beginning> {
        self.text.format().turn()?;
        match opening? {
            Opening::Reasoning => Some(Beginning::Thinking),
            // Harmony's answers have their marker in any case.
            Opening::Content if self.text.format().is_harmony() => Some(Beginning::Thinking),
            Opening::Content => self.text.thinking_token().map(Beginning::Either),
        }
    }

    fn thinking(
        &self,
        workshop: &Workshop,
        opening: Option<Opening>,
        budget: Option<ThinkingBudget>,
    ) -> Result<Option<Thinking>, Problem> {
        let found = (opening, self.beginning(opening), self.text.format().turn());
        let (Some(opening), Some(beginning), Some(turn)) = found else { return Ok(None) };
        let Some(marker) = &workshop.marker else { return Ok(None) };
        let budget = budget.map(|budget| self.closing(turn, opening, budget.tokens)).transpose()?;
        Ok(Some(Thinking { marker: Arc::clone(marker), beginning, budget }))
    }

    /// Most tokens until thinking is closed, and the tokens that close it.
    fn closing(&self, turn: Turn, opening: Opening, tokens: u32) -> Result<(u32, Vec<u32>), Problem> {
        let encode = |text: &str| {
            let tokens = self.text.tokenizer().encode(text, tokenizer::Beginning::AsWritten, CLOSING_TOKENS_MAX);
            tokens.map_err(|error| Problem::from(Failure::Row(error.to_string())))
        };
        let header = match opening {
            Opening::Content => encode(turn.header)?.len() as u32,
            Opening::Reasoning => 0,
        };
        Ok((tokens.saturating_add(header), encode(turn.closing)?))
    }

    fn workshop(&self, logit_width: u32) -> Result<&Workshop, Problem> {
        let workshop = self.workshop.get_or_init(|| Workshop::new(&self.text, logit_width));
        workshop.as_ref().map_err(|reason| Failure::Row(reason.clone()).into())
    }
}

impl fmt::Debug for Constrainer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Constrainer").field("used", &self.workshop.get().is_some()).finish_non_exhaustive()
    }
}

impl Workshop {
    fn new(text: &Text, logit_width: u32) -> Result<Self, String> {
        let tokenizer = text.tokenizer();
        let bytes_of = |id| tokenizer.token_bytes(id).map(<[u8]>::to_vec);
        let vocabulary = Vocabulary::new(logit_width, bytes_of, |id| text.is_hidden(id), text.end_ids())
            .map_err(|error| error.to_string())?;
        let vocabulary = Arc::new(vocabulary);
        let thread = |error: std::io::Error| format!("no thread for grammars: {error}");
        let marker = text.format().turn().map(|turn| Arc::new(Marker::new(&vocabulary, turn.marker)));
        Ok(Self { vocabulary, pool: Pool::start().map_err(thread)?, worker: Worker::start().map_err(thread)?, marker })
    }
}

impl Restricted {
    /// What restricts one answer, from its beginning.
    pub(crate) fn constraint(&self) -> Box<dyn Constraint> {
        let workshop = self.constrainer.workshop.get().and_then(|workshop| workshop.as_ref().ok());
        let workshop = workshop.expect("made before anything was compiled");
        let inner = self.compiled.as_ref().map(|compiled| workshop.worker.constraint(compiled));
        match (&self.thinking, inner) {
            (Some(Thinking { marker, beginning, budget }), inner) => {
                let budget = budget.as_ref();
                let budget =
                    budget.map(|(most, close)| grammar::ThinkingBudget::new(&workshop.vocabulary, *most, close));
                Box::new(After::new(Arc::clone(marker), *beginning, budget, inner))
            }
            (None, Some(inner)) => inner,
            (None, None) => unreachable!("what restricts nothing is not made"),
        }
    }
}

/// What an answer must look like, and the field that says so; `None` when it is free.
fn wanted(
    restriction: Option<Restriction>,
    calls: Option<Calls<'_>>,
) -> Result<Option<(&'static str, Wanted)>, Problem> {
    let shape = |calls: Calls<'_>| calls.format.shape(calls.tools, calls.required);
    match (restriction, calls) {
        // Calls are the answer then, and a form is one of content.
        (_, Some(calls)) if calls.must => Ok(Some(("tools", Wanted::Shape(shape(calls))))),
        (None, _) => Ok(None),
        (Some(Restriction { field, form }), None) => Ok(Some((field, alone(form)))),
        (Some(Restriction { field, form }), Some(calls)) => {
            let content = beside_calls(form).filter(|_| calls.format != ToolFormat::Harmony).ok_or_else(|| {
                let message = format!("`{field}` cannot be combined with `tools`: send one of them, or `tool_choice`");
                Invalid::value(field, message)
            })?;
            Ok(Some((field, Wanted::Shape(Shape::Choice(vec![content, shape(calls)])))))
        }
    }
}

fn alone(form: Form) -> Wanted {
    match form {
        Form::JsonObject => Wanted::JsonObject,
        Form::JsonSchema(schema) => Wanted::JsonSchema(schema),
        Form::Regex(regex) => Wanted::Regex(regex),
        Form::Lark(grammar) => Wanted::Lark(grammar),
        Form::Choice(texts) => Wanted::Choice(texts),
    }
}

/// A form in words that can be one of several; `None` for languages that cannot.
fn beside_calls(form: Form) -> Option<Shape> {
    match form {
        Form::JsonObject => Some(Shape::Json(json!({ "type": "object" }))),
        Form::JsonSchema(schema) => Some(Shape::Json(schema)),
        Form::Choice(texts) => Some(Shape::Choice(texts.into_iter().map(Shape::Literal).collect())),
        Form::Regex(_) | Form::Lark(_) => None,
    }
}

fn problem(field: &str, error: &GrammarError) -> Problem {
    match error.fault() {
        Fault::Client => Invalid::value(field, format!("`{field}`: {error}")).into(),
        Fault::Busy => Problem::QueueFull { retry_after_seconds: RETRY_AFTER_SECONDS },
        Fault::Ours => Failure::Row(error.to_string()).into(),
    }
}
