//! `POST /v1/tokenize` and `POST /v1/detokenize`: what the loaded model's tokenizer makes of a text or a conversation, and
//! of tokens. Nothing is queued; the work goes to the blocking pool.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::api::error::Invalid;
use crate::api::tokens::{DetokenizeRequest, Detokenized, Subject, TokenizeRequest, Tokenized};
use crate::http::error::Problem;
use crate::http::generate::{announce, blocking};
use crate::http::prepare::{Loaded, unspeakable};
use crate::http::reply::{self, Body};
use crate::http::{State, body, health, models};
use crate::text::tokenizer::Beginning;
use crate::text::{Speaker, TextError};

/// Contexts that a text may fill: enough to see by how much it is too long for one.
const CONTEXTS_MAX: u32 = 4;

/// The tokens of a text or of a conversation.
pub(crate) async fn tokenize(state: &Arc<State>, body: axum::body::Body) -> Result<Response<Body>, Problem> {
    answered(state, body, |bytes, loaded| {
        let request = TokenizeRequest::parse(bytes, &loaded.bounds())?;
        check_model(request.model.as_deref(), loaded)?;
        let tokens = encoded(&request, loaded)?;
        let tokenizer = loaded.served.text.tokenizer();
        let text = |id: &u32| String::from_utf8_lossy(tokenizer.token_bytes(*id).unwrap_or_default()).into_owned();
        let answer = Tokenized {
            count: tokens.len(),
            max_model_len: loaded.capacity.context_tokens,
            token_strs: request.return_token_strs.then(|| tokens.iter().map(text).collect()),
            tokens,
        };
        Ok((answer, request.ignored))
    })
    .await
}

/// The text of tokens.
pub(crate) async fn detokenize(state: &Arc<State>, body: axum::body::Body) -> Result<Response<Body>, Problem> {
    answered(state, body, |bytes, loaded| {
        let request = DetokenizeRequest::parse(bytes, &loaded.bounds())?;
        check_model(request.model.as_deref(), loaded)?;
        loaded.check_ids("tokens", request.tokens.iter().copied())?;
        Ok((Detokenized { prompt: loaded.served.text.decode(&request.tokens) }, request.ignored))
    })
    .await
}

/// What `work` makes of a body, and the fields of it that had no effect.
async fn answered<A: Serialize + Send + 'static>(
    state: &Arc<State>,
    body: axum::body::Body,
    work: impl FnOnce(&[u8], &Loaded<'_>) -> Result<(A, Vec<String>), Problem> + Send + 'static,
) -> Result<Response<Body>, Problem> {
    health::check_answering(state)?;
    let bytes = body::read(body, state.settings.limits.body_bytes, state.settings.times.body).await?;
    let (answer, ignored) = blocking(state, bytes, work).await?;
    let mut response = reply::json(StatusCode::OK, serde_json::to_vec(&answer).expect("an answer is plain data"));
    announce(&ignored, None, response.headers_mut());
    Ok(response)
}

fn check_model(name: Option<&str>, loaded: &Loaded<'_>) -> Result<(), Problem> {
    name.map_or(Ok(()), |name| models::check_name(&loaded.served.card, name))
}

fn encoded(request: &TokenizeRequest, loaded: &Loaded<'_>) -> Result<Vec<u32>, Problem> {
    let text = &loaded.served.text;
    let rendered;
    let (field, written) = match &request.subject {
        Subject::Text(text) => ("prompt", text),
        Subject::Chat { messages, tools, template_arguments, add_generation_prompt } => {
            let tools = tools.as_ref().map(|tools| tools.list.as_slice());
            let speaker = if *add_generation_prompt { Speaker::Assistant } else { Speaker::Nobody };
            rendered = text
                .rendered(messages, tools, template_arguments, speaker)
                .map_err(|error| unspeakable("messages", error))?;
            ("messages", &rendered)
        }
    };
    let beginning = if request.add_special_tokens { Beginning::Added } else { Beginning::AsWritten };
    let tokens_max = loaded.capacity.context_tokens.saturating_mul(CONTEXTS_MAX);
    let tokens = text.tokenizer().encode(written, beginning, tokens_max);
    tokens.map_err(|error| match error {
        TextError::TooLong { .. } => {
            let message =
                format!("`{field}` has more than the {tokens_max} tokens that are told, {CONTEXTS_MAX} contexts");
            Invalid::value(field, message).into()
        }
        TextError::NoTemplate | TextError::Template(_) | TextError::Empty | TextError::Encode(_) => {
            unspeakable(field, error)
        }
    })
}
