//! `/v1/models`: what is loaded and able to answer, or a 503 with the reason. Cheap monitors look here, so the list
//! carries the engine's state and never waits for it.

use hyper::{Response, StatusCode};

use crate::api::models::{Model, ModelList};
use crate::http::error::Problem;
use crate::http::health;
use crate::http::reply::{self, Body};
use crate::http::{ModelCard, State};

/// Bytes of a model's name that an error repeats.
const NAME_CHARS_SHOWN: usize = 128;

/// The loaded model under its id, then under each alias.
pub(crate) fn list(state: &State) -> Result<Response<Body>, Problem> {
    let card = answering_card(state)?;
    let names = std::iter::once(&card.id).chain(&card.aliases);
    let list = ModelList {
        object: "list",
        data: names.map(|name| model(name, card)).collect(),
        sanctum: health::engine_state(state, &state.lifecycle.heartbeat.pulse()),
    };
    Ok(reply::json(StatusCode::OK, serde_json::to_vec(&list).expect("a list is plain data")))
}

/// One model by id or alias.
pub(crate) fn one(state: &State, name: &str) -> Result<Response<Body>, Problem> {
    let card = answering_card(state)?;
    check_name(card, name)?;
    Ok(reply::json(StatusCode::OK, serde_json::to_vec(&model(name, card)).expect("a model is plain data")))
}

/// Whether `name` is the loaded model. A wrong name never triggers a download.
pub(crate) fn check_name(card: &ModelCard, name: &str) -> Result<(), Problem> {
    if card.id == name || card.aliases.iter().any(|alias| alias == name) {
        return Ok(());
    }
    Err(Problem::ModelNotFound(name.chars().take(NAME_CHARS_SHOWN).collect()))
}

fn answering_card(state: &State) -> Result<&ModelCard, Problem> {
    health::check_answering(state)?;
    Ok(&state.served.get().expect("an answering server has a model").card)
}

fn model(name: &str, card: &ModelCard) -> Model {
    Model {
        id: name.to_owned(),
        object: "model",
        created: card.created,
        owned_by: "sanctum-mlx",
        context_length: card.context_tokens,
        quantization: card.quantization.clone(),
        adapter: card.adapter.clone(),
    }
}
