//! From a request to jobs, whatever API asked: choices checked against the model, prompts against the context, defaults
//! filled in. Runs on the blocking pool, because encoding and grammars take milliseconds. Everything that can be refused is
//! refused here, before anything is queued. What a prompt is made of is the APIs' own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::api::chat::ThinkingBudget;
use crate::api::error::Invalid;
use crate::api::options::{self, Bounds, Delivery, Options, PromptCache};
use crate::config::settings::Settings;
use crate::engine::backend::Capacity;
use crate::http::constrain::{Asked, Calls, Restricted};
use crate::http::error::Problem;
use crate::http::{Defaults, Served, models};
use crate::job::{Failure, Job, JobId, Limits, Sampling};
use crate::text::TextError;
use crate::text::channel::format::Opening;
use crate::text::tools::Tool;

/// What a request is prepared with: a model that is loaded, and what it may be asked for.
#[derive(Clone, Copy)]
pub(crate) struct Loaded<'a> {
    pub(crate) served: &'a Served,
    pub(crate) capacity: Capacity,
    pub(crate) settings: &'a Settings,
}

/// A request whose prompts are encoded.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    /// One or more, none of them empty.
    pub(crate) prompts: Vec<Vec<u32>>,
    /// The field that they come from, for errors.
    pub(crate) field: &'static str,
    /// Most tokens of an answer when the client names no number; `None`: what is left of the context.
    pub(crate) tokens_default: Option<u32>,
    pub(crate) options: Options,
    /// Tools that may or must be called.
    pub(crate) calls: Option<Calls<'a>>,
    /// How long the model may think.
    pub(crate) budget: Option<ThinkingBudget>,
    pub(crate) layout: Layout,
}

/// A legal request, ready to be queued.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompts: Vec<Prompt>,
    /// Log probabilities are returned.
    pub(crate) logprobs: bool,
    sampling: Sampling,
    /// What each answer must look like.
    restricted: Option<Restricted>,
    stop_tokens: Vec<u32>,
    /// Answers to each prompt.
    pub(crate) n: u32,
    pub(crate) stop: Vec<String>,
    pub(crate) delivery: Delivery,
    pub(crate) timeout: Option<Duration>,
    prompt_cache: PromptCache,
    /// Fields that had no effect.
    pub(crate) ignored: Vec<String>,
    /// How answers are read.
    pub(crate) layout: Layout,
}

/// What the model goes on with.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    /// Most tokens of an answer to it.
    tokens_max: u32,
}

/// How answers to a request are read.
#[derive(Debug)]
pub(crate) struct Layout {
    /// How the prompt leaves an answer to begin; `None` when it only goes on with a text.
    pub(crate) opening: Option<Opening>,
    /// Tools that may be called; none when calls are content.
    pub(crate) tools: Arc<[Tool]>,
    /// A second call ends the answer.
    pub(crate) single_call: bool,
    /// The ids of tokens are told.
    pub(crate) tells_tokens: bool,
}

impl Loaded<'_> {
    /// What a request may ask for at most.
    pub(crate) fn bounds(&self) -> Bounds {
        bounds(self.settings)
    }

    /// Whether this model can do what is chosen: its name and its token ids.
    pub(crate) fn check(&self, options: &Options) -> Result<(), Problem> {
        if let Some(name) = &options.model {
            models::check_name(&self.served.card, name)?;
        }
        self.check_ids("logit_bias", options.sampling.logit_bias.iter().map(|(id, _)| *id))?;
        self.check_ids("stop_token_ids", options.stop_token_ids.iter().copied())?;
        Ok(())
    }

    /// Token ids come from outside and index the logits (E4).
    pub(crate) fn check_ids(&self, name: &str, ids: impl Iterator<Item = u32>) -> Result<(), Invalid> {
        let width = self.capacity.logit_width;
        match ids.max().filter(|id| *id >= width) {
            Some(id) => {
                let message = format!("`{name}` names token {id}; this model's tokens are 0 to {}", width - 1);
                Err(Invalid::value(name, message))
            }
            None => Ok(()),
        }
    }

    /// Makes of a draft what the engine takes.
    pub(crate) fn prepared(&self, draft: Draft<'_>) -> Result<Prepared, Problem> {
        let Draft { prompts, field, tokens_default, options, calls, budget, layout } = draft;
        let prompt = |tokens: Vec<u32>| {
            self.check_prompt(&tokens)?;
            let tokens_max = self.tokens_max(&options, tokens.len(), tokens_default, field)?;
            Ok(Prompt { tokens, tokens_max })
        };
        let prompts = prompts.into_iter().map(prompt).collect::<Result<Vec<_>, Problem>>()?;

        let mut stop_tokens = if options.ignore_eos { Vec::new() } else { self.served.text.end_ids().to_vec() };
        stop_tokens.extend(&options.stop_token_ids);
        let mut sampling = sampling(options.sampling, &self.served.card.defaults);
        sampling.tokens_min = options.tokens_min;
        sampling.ends = if options.tokens_min > 0 { stop_tokens.clone() } else { Vec::new() };
        sampling.logprobs = options.logprobs;

        let asked = Asked { restriction: options.restriction, calls, budget, opening: layout.opening };
        let restricted = self.served.constrainer.restrict(asked, self.capacity.logit_width)?;
        Ok(Prepared {
            prompts,
            restricted,
            logprobs: sampling.logprobs.is_some(),
            sampling,
            stop_tokens,
            n: options.n,
            stop: options.stop,
            delivery: options.delivery,
            timeout: options.timeout,
            prompt_cache: options.prompt_cache,
            ignored: options.ignored,
            layout,
        })
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<(), Problem> {
        let width = self.capacity.logit_width;
        if let Some(id) = prompt.iter().find(|id| **id >= width) {
            tracing::error!(id, width, "the tokenizer knows more tokens than the model");
            return Err(Problem::Internal);
        }
        Ok(())
    }

    /// How many tokens may be generated; a prompt that leaves no room, or less than asked for, is refused here (E10).
    fn tokens_max(
        &self,
        options: &Options,
        prompt_tokens: usize,
        tokens_default: Option<u32>,
        field: &str,
    ) -> Result<u32, Invalid> {
        let context = self.capacity.context_tokens;
        let left = u32::try_from(prompt_tokens).ok().and_then(|prompt| context.checked_sub(prompt)).unwrap_or(0);
        if let Some(most) = options.tokens_max.filter(|most| *most < options.tokens_min) {
            let message = format!("`min_tokens` is {} and the most tokens are {most}", options.tokens_min);
            return Err(Invalid::value("min_tokens", message));
        }
        let default = [tokens_default, self.settings.limits.tokens_default].into_iter().flatten().min();
        let wanted = options.tokens_max.unwrap_or_else(|| default.map_or(left, |most| most.min(left)).max(1));
        if wanted <= left {
            return Ok(wanted);
        }
        Err(Invalid {
            message: format!(
                "the context holds {context} tokens; `{field}` takes {prompt_tokens} and {wanted} are asked for beyond them"
            ),
            param: Some(field.to_owned()),
            code: "context_length_exceeded",
        })
    }
}

/// What a request may ask for at most.
pub(crate) fn bounds(settings: &Settings) -> Bounds {
    let limits = &settings.limits;
    Bounds {
        n: limits.n,
        answers: limits.queue_jobs.max(limits.n),
        stop_strings: limits.stop_strings,
        logit_bias: limits.logit_bias,
        messages: limits.messages,
        tools: limits.tools,
        top_logprobs: limits.top_logprobs,
        strict: settings.strict,
    }
}

/// An answer of a certain form is over when it is complete, whatever else is asked for. `must_call` is set when that form
/// is a call.
pub(crate) fn check_endings(options: &Options, must_call: Option<&str>) -> Result<(), Invalid> {
    let form = options.restriction.as_ref().map(|restriction| restriction.field);
    let Some(field) = form.or(must_call) else { return Ok(()) };
    let conflict = |name: &str| {
        let message = format!("`{name}` cannot be combined with `{field}`, whose answers end when complete");
        Err(Invalid::value(name, message))
    };
    match options {
        Options { ignore_eos: true, .. } => conflict("ignore_eos"),
        Options { tokens_min: 1.., .. } => conflict("min_tokens"),
        _ => Ok(()),
    }
}

/// Why there is no prompt: the fault of the text in `field`, or the tokenizer's.
pub(crate) fn unspeakable(field: &str, error: TextError) -> Problem {
    match error {
        TextError::NoTemplate | TextError::Template(_) | TextError::Empty => {
            Invalid::value(field, error.to_string()).into()
        }
        TextError::TooLong { .. } => {
            Invalid { message: error.to_string(), param: Some(field.to_owned()), code: "context_length_exceeded" }
                .into()
        }
        TextError::Encode(_) => Failure::Row(error.to_string()).into(),
    }
}

impl Prepared {
    /// Answers to all prompts.
    pub(crate) fn answers(&self) -> u32 {
        u32::try_from(self.prompts.len()).expect("the answers are bounded").saturating_mul(self.n)
    }

    /// The job of one of the answers, all to the first prompt first. Each of the `n` has a seed of its own, so that they
    /// differ and can be repeated; what a prompt is answered does not depend on the others beside it.
    pub(crate) fn job(&self, id: JobId, scope: &Arc<str>, index: u32, queue_deadline: Instant) -> Job {
        let Prompt { tokens, tokens_max } = &self.prompts[(index / self.n) as usize];
        let seed = self.sampling.seed.wrapping_add(u64::from(index % self.n));
        Job {
            id,
            prompt: tokens.clone(),
            scope: Arc::clone(scope),
            bucket: self.bucket(scope),
            sampling: Sampling { seed, ..self.sampling.clone() },
            constraint: self.restricted.as_ref().map(Restricted::constraint),
            limits: Limits { tokens_max: *tokens_max, stop_tokens: self.stop_tokens.clone(), queue_deadline },
        }
    }

    /// Where states of prompts are kept: apart for each client, and for each of its keys. A key cannot contain a NUL, so
    /// no two pairs of client and key make the same word.
    fn bucket(&self, scope: &str) -> Option<Arc<str>> {
        match &self.prompt_cache {
            PromptCache::Shared => Some(format!("{scope}\0").into()),
            PromptCache::Keyed(key) => Some(format!("{scope}\0{key}").into()),
            PromptCache::Off => None,
        }
    }
}

/// The client's choice, else that of the model's makers, else OpenAI's.
#[allow(clippy::cast_possible_truncation)] // Ranges are checked; a sampling parameter needs no more than f32.
fn sampling(given: options::Sampling, defaults: &Defaults) -> Sampling {
    let or = |given: Option<f64>, recommended: Option<f32>, neutral: f32| {
        given.map_or(recommended.unwrap_or(neutral), |given| given as f32)
    };
    Sampling {
        temperature: or(given.temperature, defaults.temperature, 1.0),
        top_p: or(given.top_p, defaults.top_p, 1.0),
        top_k: given.top_k.or(defaults.top_k).unwrap_or(0),
        min_p: or(given.min_p, defaults.min_p, 0.0),
        typical_p: or(given.typical_p, None, 1.0),
        repetition_penalty: or(given.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty: or(given.presence_penalty, None, 0.0),
        frequency_penalty: or(given.frequency_penalty, None, 0.0),
        logit_bias: given.logit_bias.into_iter().map(|(id, bias)| (id, bias as f32)).collect(),
        tokens_min: 0,
        ends: Vec::new(),
        logprobs: None,
        seed: given.seed.unwrap_or_else(|| {
            let (high, low) = Uuid::new_v4().as_u64_pair();
            high ^ low
        }),
    }
}
