//! `POST /v1/completions`: texts that the model goes on with, as they are: no template, no thoughts, no calls. It owns
//! what an answer's prompt is, in tokens and when it is echoed in text, and how answers are spelled.

use std::sync::Arc;

use bytes::BytesMut;

use crate::api::answer::{Head, Timings, Usage};
use crate::api::completion::answer::{OBJECT, TextChoice, TextCompletion, TextLogprobs};
use crate::api::completion::{CompletionRequest, Prompt, TOKENS_DEFAULT};
use crate::api::error::Invalid;
use crate::api::options::Delivery;
use crate::http::error::Problem;
use crate::http::generate::{Answered, Dialect, answer_head};
use crate::http::generation::Ending;
use crate::http::prepare::{Draft, Layout, Loaded, Prepared, check_endings, unspeakable};
use crate::http::reading::Said;
use crate::http::sse::{done_into, event_into};
use crate::text::tokenizer::Beginning;

/// Writes the answers to one completion request.
#[derive(Debug)]
pub(crate) struct Completions {
    head: Head,
    /// What each answer repeats of its prompt; one a prompt.
    prompts: Vec<Told>,
    /// Answers to each prompt.
    n: usize,
    /// What is said goes out with its tokens' log probabilities.
    logprobs: bool,
    /// A last chunk carries the token counts.
    include_usage: bool,
}

/// What an answer repeats of its prompt.
#[derive(Debug)]
struct Told {
    /// Its text, with `echo`; empty without.
    text: String,
    /// Its tokens, with `return_token_ids`.
    tokens: Option<Vec<u32>>,
}

impl Dialect for Completions {
    fn prepare(body: &[u8], loaded: &Loaded<'_>) -> Result<(Prepared, Self), Problem> {
        let request = CompletionRequest::parse(body, &loaded.bounds())?;
        let CompletionRequest { prompts: given, echo, add_special_tokens, return_token_ids, options } = request;
        loaded.check(&options)?;
        check_endings(&options, None)?;
        let beginning = if add_special_tokens { Beginning::Added } else { Beginning::AsWritten };
        let encoded = given.into_iter().map(|prompt| encoded(prompt, beginning, loaded));
        let encoded = encoded.collect::<Result<Vec<_>, Problem>>()?;
        let told = |(tokens, text): &(Vec<u32>, Option<String>)| Told {
            text: match text {
                _ if !echo => String::new(),
                Some(text) => text.clone(),
                None => loaded.served.text.decode(tokens),
            },
            tokens: return_token_ids.then(|| tokens.clone()),
        };
        let prompts = encoded.iter().map(told).collect();
        let prepared = loaded.prepared(Draft {
            prompts: encoded.into_iter().map(|(tokens, _)| tokens).collect(),
            field: "prompt",
            tokens_default: Some(TOKENS_DEFAULT),
            options,
            calls: None,
            budget: None,
            layout: Layout { opening: None, tools: Arc::new([]), single_call: false, tells_tokens: return_token_ids },
        })?;
        let completions = Self {
            head: answer_head("cmpl", OBJECT, &loaded.served.card),
            prompts,
            n: prepared.n as usize,
            logprobs: prepared.logprobs,
            include_usage: matches!(prepared.delivery, Delivery::Stream { include_usage: true }),
        };
        Ok((prepared, completions))
    }

    fn whole(&self, answered: &Answered) -> Vec<u8> {
        let texts = answered.answers.iter().enumerate();
        let texts = texts.map(|(index, (answer, _))| format!("{}{}", self.told(index).text, answer.content));
        let texts: Vec<String> = texts.collect();
        let choices = answered.answers.iter().zip(&texts).enumerate();
        let choices = choices.map(|(index, ((answer, reason), text))| {
            let prompt_token_ids = self.told(index).tokens.as_deref();
            TextChoice {
                index,
                text,
                logprobs: self.logprobs.then(|| TextLogprobs::of(&answer.logprobs)),
                finish_reason: Some(*reason),
                prompt_token_ids,
                token_ids: prompt_token_ids.map(|_| answer.tokens.as_slice()),
            }
        });
        let answer = TextCompletion {
            head: &self.head,
            choices: &choices.collect::<Vec<_>>(),
            usage: Some(Some(answered.usage)),
            timings: Some(answered.timings),
        };
        serde_json::to_vec(&answer).expect("an answer is plain data")
    }

    /// What is repeated of the prompts, if anything is.
    fn begin_into(&self, frame: &mut BytesMut) {
        for index in 0..self.prompts.len() * self.n {
            let Told { text, tokens } = self.told(index);
            if !text.is_empty() || tokens.is_some() {
                let prompt_token_ids = tokens.as_deref();
                let token_ids = prompt_token_ids.map(|_| &[][..]);
                let choice = TextChoice { index, text, prompt_token_ids, token_ids, ..TextChoice::default() };
                self.chunk_into(frame, choice, None);
            }
        }
    }

    fn said_into(&self, frame: &mut BytesMut, index: usize, said: &Said) {
        let choice = TextChoice {
            index,
            text: &said.content(),
            logprobs: self.logprobs.then(|| TextLogprobs::of(&said.logprobs)),
            token_ids: self.told(index).tokens.as_ref().map(|_| said.tokens.as_slice()),
            ..TextChoice::default()
        };
        self.chunk_into(frame, choice, None);
    }

    fn ended_into(&self, frame: &mut BytesMut, index: usize, ending: &Ending) {
        let choice = TextChoice { index, finish_reason: Some(ending.reason), ..TextChoice::default() };
        self.chunk_into(frame, choice, Some(ending.timings));
    }

    fn done_into(&self, frame: &mut BytesMut, usage: Usage) {
        if self.include_usage {
            let last = TextCompletion { head: &self.head, choices: &[], usage: Some(Some(usage)), timings: None };
            event_into(frame, &last);
        }
        done_into(frame);
    }
}

impl Completions {
    /// What the answer with this index repeats.
    fn told(&self, index: usize) -> &Told {
        &self.prompts[index / self.n]
    }

    fn chunk_into(&self, frame: &mut BytesMut, choice: TextChoice<'_>, timings: Option<Timings>) {
        let usage = self.include_usage.then_some(None);
        event_into(frame, &TextCompletion { head: &self.head, choices: &[choice], usage, timings });
    }
}

/// A prompt's tokens, and its text if that is what was sent.
fn encoded(prompt: Prompt, beginning: Beginning, loaded: &Loaded<'_>) -> Result<(Vec<u32>, Option<String>), Problem> {
    match prompt {
        Prompt::Tokens(tokens) => {
            loaded.check_ids("prompt", tokens.iter().copied())?;
            Ok((tokens, None))
        }
        Prompt::Text(text) => {
            let tokenizer = loaded.served.text.tokenizer();
            let tokens = tokenizer.encode(&text, beginning, loaded.capacity.context_tokens);
            let tokens = tokens.map_err(|error| unspeakable("prompt", error))?;
            if tokens.is_empty() {
                return Err(Invalid::value("prompt", "`prompt` is empty: it has no token to go on with").into());
            }
            Ok((tokens, Some(text)))
        }
    }
}
