//! Health and metrics. Everything here reads atomics: neither the engine nor its queue is ever waited for, so a probe
//! is answered while the inference thread spins in native code.

use hyper::{Response, StatusCode};

use crate::api::models::{EngineState, Health, PrefixMiss, PrefixMisses};
use crate::http::State;
use crate::http::error::Problem;
use crate::http::reply::{self, Body};
use crate::lifecycle::heartbeat::Pulse;
use crate::telemetry::metrics::{self, EngineGauges};

/// The process is alive: it parsed this request. Looks at nothing else (P1).
pub(crate) fn live() -> Response<Body> {
    reply::json(StatusCode::OK, br#"{"status":"live"}"#.to_vec())
}

/// A real token was generated and the engine makes progress, or why that is not so (P2).
pub(crate) fn ready(state: &State) -> Result<Response<Body>, Problem> {
    check_answering(state)?;
    Ok(reply::json(StatusCode::OK, br#"{"status":"ready"}"#.to_vec()))
}

/// Everything, for a person; 503 while the engine cannot answer.
pub(crate) fn report(state: &State) -> Response<Body> {
    let pulse = state.lifecycle.heartbeat.pulse();
    let binary_wrong = state.metrics.binary_integrity.wrong();
    let health = Health {
        engine: engine_state(state, &pulse),
        running_rows: pulse.running,
        steps: pulse.steps,
        last_unit: pulse.unit.as_str(),
        requests_in_flight: state.lifecycle.drain.in_flight(),
        prefix_misses: prefix_misses(state),
        runtime_tick_age_seconds: seconds(pulse.runtime_tick_age_ms),
        binary_integrity: binary_wrong.is_none(),
        binary_wrong,
        companion_age_seconds: state.metrics.companions.ages(),
        uptime_seconds: state.started.elapsed().as_secs_f64(),
        model: state.served.get().map(|served| served.card.id.clone()),
        version: env!("CARGO_PKG_VERSION"),
    };
    let status = if check_answering(state).is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, serde_json::to_vec(&health).expect("health is plain data"))
}

/// The registry as text.
pub(crate) fn metrics(state: &State) -> Response<Body> {
    let pulse = state.lifecycle.heartbeat.pulse();
    let text = state.metrics.render(EngineGauges {
        up: check_answering(state).is_ok(),
        last_step_age_seconds: seconds(pulse.last_progress_age_ms),
        queue_depth: pulse.queued,
        queue_oldest_age_seconds: seconds(pulse.queue_oldest_age_ms),
        running_rows: pulse.running,
        runtime_tick_age_seconds: seconds(pulse.runtime_tick_age_ms),
        requests_in_flight: state.lifecycle.drain.in_flight(),
    });
    reply::typed(StatusCode::OK, metrics::CONTENT_TYPE, text)
}

/// Whether a request accepted now can be expected to be answered.
pub(crate) fn check_answering(state: &State) -> Result<(), Problem> {
    let phase = state.lifecycle.phase.now();
    if phase.can_answer() && state.served.get().is_some() {
        return Ok(());
    }
    let reason = state.lifecycle.phase.reason();
    Err(Problem::NotReady { phase, reason, retry_after_seconds: state.engine.retry_after_seconds() })
}

/// The state that `/v1/models` and `/health` carry.
pub(crate) fn engine_state(state: &State, pulse: &Pulse) -> EngineState {
    EngineState {
        phase: state.lifecycle.phase.now().as_str(),
        reason: state.lifecycle.phase.reason(),
        instance: state.instance.clone(),
        last_step_age_seconds: seconds(pulse.last_progress_age_ms),
        queue_depth: pulse.queued,
        queue_oldest_age_seconds: seconds(pulse.queue_oldest_age_ms),
    }
}

fn prefix_misses(state: &State) -> PrefixMisses {
    let misses = &state.metrics.prefix_misses;
    PrefixMisses {
        counts: misses.counts().map(|(reason, count)| (reason.as_str(), count)).collect(),
        last: misses.last().map(|(reason, position)| PrefixMiss { reason: reason.as_str(), position }),
    }
}

#[allow(clippy::cast_precision_loss)] // An age in milliseconds is far below 2^53.
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}
