//! From a body to jobs: parse, render the template, encode, check against the model. Runs on the blocking pool, because
//! a long conversation takes milliseconds. Everything that can be refused is refused here, before anything is queued.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::api::chat::{self, Bounds, ChatRequest, Delivery};
use crate::api::error::Invalid;
use crate::api::tools::{ToolChoice, Tools};
use crate::config::settings::Settings;
use crate::engine::backend::Capacity;
use crate::http::constrain::{Asked, Calls, Restricted};
use crate::http::error::Problem;
use crate::http::{Defaults, Served, models};
use crate::job::{Failure, Job, JobId, Limits, Sampling};
use crate::text::TextError;
use crate::text::channel::format::Opening;
use crate::text::tools::{Required, Tool, ToolFormat};

/// A legal request, ready to be queued.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) prompt: Vec<u32>,
    /// Log probabilities are returned.
    pub(crate) logprobs: bool,
    sampling: Sampling,
    /// What each answer must look like.
    restricted: Option<Restricted>,
    tokens_max: u32,
    stop_tokens: Vec<u32>,
    pub(crate) n: u32,
    pub(crate) stop: Vec<String>,
    pub(crate) delivery: Delivery,
    pub(crate) timeout: Option<Duration>,
    /// Fields that had no effect.
    pub(crate) ignored: Vec<String>,
    /// How answers are read.
    pub(crate) layout: Layout,
    /// Tools were offered to a model whose way of calling them is not known.
    pub(crate) calls_are_content: bool,
}

/// How answers to a request are read.
#[derive(Debug)]
pub(crate) struct Layout {
    /// How the prompt leaves an answer to begin.
    pub(crate) opening: Opening,
    /// Tools that may be called; none when calls are content.
    pub(crate) tools: Arc<[Tool]>,
    /// A second call ends the answer.
    pub(crate) single_call: bool,
}

/// Reads a body and makes of it what the engine takes.
pub(crate) fn prepare(
    body: &Bytes,
    served: &Served,
    capacity: Capacity,
    settings: &Settings,
) -> Result<Prepared, Problem> {
    let request = ChatRequest::parse(body, &bounds(settings))?;
    if let Some(name) = &request.model {
        models::check_name(&served.card, name)?;
    }
    check_token_ids(&request, capacity.logit_width)?;
    check_endings(&request)?;
    let offered = request.tools.as_ref();
    let prompt = served
        .text
        .prompt(
            &request.messages,
            offered.map(|tools| tools.list.as_slice()),
            &request.template_arguments,
            capacity.context_tokens,
        )
        .map_err(unspeakable)?;
    check_prompt(&prompt.tokens, capacity)?;
    let tokens_max = tokens_max(&request, prompt.tokens.len(), capacity, settings.limits.tokens_default)?;

    let mut stop_tokens = if request.ignore_eos { Vec::new() } else { served.text.end_ids().to_vec() };
    stop_tokens.extend(&request.stop_token_ids);
    let mut sampling = sampling(request.sampling, &served.card.defaults);
    sampling.tokens_min = request.tokens_min;
    sampling.ends = if request.tokens_min > 0 { stop_tokens.clone() } else { Vec::new() };
    sampling.logprobs = request.logprobs;

    let mut ignored = request.ignored;
    let mut budget = request.thinking_budget;
    if let Some(idle) = budget.take_if(|_| !served.constrainer.knows_thinking(prompt.opening)) {
        without_effect(idle.field, settings.strict)?;
        ignored.push(idle.field.to_owned());
    }
    let format = served.text.format().tools;
    let tools = tools(offered.filter(|_| format.is_some()));
    let calls = calls(format, offered, &tools)?;
    let asked = Asked { restriction: request.restriction, calls, budget, opening: prompt.opening };
    let restricted = served.constrainer.restrict(asked, capacity.logit_width)?;
    let single_call = offered.is_some_and(|tools| !tools.parallel);
    Ok(Prepared {
        prompt: prompt.tokens,
        restricted,
        logprobs: sampling.logprobs.is_some(),
        sampling,
        tokens_max,
        stop_tokens,
        n: request.n,
        stop: request.stop,
        delivery: request.delivery,
        timeout: request.timeout,
        ignored,
        layout: Layout { opening: prompt.opening, tools, single_call },
        calls_are_content: offered.is_some() && format.is_none(),
    })
}

fn bounds(settings: &Settings) -> Bounds {
    let limits = &settings.limits;
    Bounds {
        n: limits.n,
        stop_strings: limits.stop_strings,
        logit_bias: limits.logit_bias,
        messages: limits.messages,
        tools: limits.tools,
        top_logprobs: limits.top_logprobs,
        strict: settings.strict,
    }
}

/// The tools in the words of those who read calls.
fn tools(offered: Option<&Tools>) -> Arc<[Tool]> {
    let functions = offered.into_iter().flat_map(Tools::functions);
    functions.map(|(name, parameters)| Tool { name: name.to_owned(), parameters }).collect()
}

/// Which calls there may or must be.
fn calls<'a>(
    format: Option<ToolFormat>,
    offered: Option<&'a Tools>,
    tools: &'a [Tool],
) -> Result<Option<Calls<'a>>, Invalid> {
    let Some(offered) = offered else { return Ok(None) };
    let must = offered.choice != ToolChoice::Auto;
    let Some(format) = format else {
        if must {
            let message = "`tool_choice` cannot require a call: this model's way of writing calls is not known";
            return Err(Invalid::unsupported("tool_choice", message));
        }
        return Ok(None);
    };
    let required = match &offered.choice {
        ToolChoice::Named(name) => Required::Named(name),
        ToolChoice::Auto | ToolChoice::Required if offered.parallel => Required::Some,
        ToolChoice::Auto | ToolChoice::Required => Required::One,
    };
    Ok(Some(Calls { format, tools, required, must }))
}

/// With `--strict`, a field that turns out to have no effect is a mistake.
fn without_effect(field: &str, strict: bool) -> Result<(), Invalid> {
    if strict {
        let message = format!("`{field}` has no effect on this model, and this server was started with --strict");
        return Err(Invalid::unsupported(field, message));
    }
    Ok(())
}

impl Prepared {
    /// The job of one of the `n` answers. Each has a seed of its own, so that they differ and can be repeated.
    pub(crate) fn job(&self, id: JobId, scope: &Arc<str>, index: u32, queue_deadline: Instant) -> Job {
        let seed = self.sampling.seed.wrapping_add(u64::from(index));
        Job {
            id,
            prompt: self.prompt.clone(),
            scope: Arc::clone(scope),
            sampling: Sampling { seed, ..self.sampling.clone() },
            constraint: self.restricted.as_ref().map(Restricted::constraint),
            limits: Limits { tokens_max: self.tokens_max, stop_tokens: self.stop_tokens.clone(), queue_deadline },
        }
    }
}

/// Why there is no prompt: the conversation's fault, or the tokenizer's.
fn unspeakable(error: TextError) -> Problem {
    match error {
        TextError::NoTemplate | TextError::Template(_) | TextError::Empty => {
            Invalid::value("messages", error.to_string()).into()
        }
        TextError::TooLong { .. } => {
            Invalid { message: error.to_string(), param: Some("messages".to_owned()), code: "context_length_exceeded" }
                .into()
        }
        TextError::Encode(_) => Failure::Row(error.to_string()).into(),
    }
}

/// Token ids come from outside and index the logits (E4).
fn check_token_ids(request: &ChatRequest, logit_width: u32) -> Result<(), Invalid> {
    let check = |name: &str, highest: Option<u32>| match highest.filter(|id| *id >= logit_width) {
        Some(id) => {
            let message = format!("`{name}` names token {id}; this model's tokens are 0 to {}", logit_width - 1);
            Err(Invalid::value(name, message))
        }
        None => Ok(()),
    };
    check("logit_bias", request.sampling.logit_bias.iter().map(|(id, _)| *id).max())?;
    check("stop_token_ids", request.stop_token_ids.iter().copied().max())
}

/// An answer of a certain form is over when it is complete, whatever else is asked for.
fn check_endings(request: &ChatRequest) -> Result<(), Invalid> {
    let must_call = request.tools.as_ref().is_some_and(|tools| tools.choice != ToolChoice::Auto);
    let form = request.restriction.as_ref().map(|restriction| restriction.field);
    let Some(field) = form.or(must_call.then_some("tool_choice")) else { return Ok(()) };
    let conflict = |name: &str| {
        let message = format!("`{name}` cannot be combined with `{field}`, whose answers end when complete");
        Err(Invalid::value(name, message))
    };
    match request {
        ChatRequest { ignore_eos: true, .. } => conflict("ignore_eos"),
        ChatRequest { tokens_min: 1.., .. } => conflict("min_tokens"),
        _ => Ok(()),
    }
}

fn check_prompt(prompt: &[u32], capacity: Capacity) -> Result<(), Problem> {
    if let Some(id) = prompt.iter().find(|id| **id >= capacity.logit_width) {
        tracing::error!(id, width = capacity.logit_width, "the tokenizer knows more tokens than the model");
        return Err(Problem::Internal);
    }
    Ok(())
}

/// How many tokens may be generated; a prompt that leaves no room, or less than asked for, is refused here (E10).
fn tokens_max(
    request: &ChatRequest,
    prompt_tokens: usize,
    capacity: Capacity,
    tokens_default: Option<u32>,
) -> Result<u32, Invalid> {
    let context = capacity.context_tokens;
    let left = u32::try_from(prompt_tokens).ok().and_then(|prompt| context.checked_sub(prompt)).unwrap_or(0);
    if let Some(most) = request.tokens_max.filter(|most| *most < request.tokens_min) {
        let message = format!("`min_tokens` is {} and the most tokens are {most}", request.tokens_min);
        return Err(Invalid::value("min_tokens", message));
    }
    let wanted = request.tokens_max.unwrap_or_else(|| tokens_default.map_or(left, |most| most.min(left)).max(1));
    if wanted <= left {
        return Ok(wanted);
    }
    Err(Invalid {
        message: format!(
            "the context holds {context} tokens; the messages take {prompt_tokens} and {wanted} are asked for beyond them"
        ),
        param: Some("messages".to_owned()),
        code: "context_length_exceeded",
    })
}

/// The client's choice, else that of the model's makers, else OpenAI's.
#[allow(clippy::cast_possible_truncation)] // Ranges are checked; a sampling parameter needs no more than f32.
fn sampling(given: chat::Sampling, defaults: &Defaults) -> Sampling {
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
