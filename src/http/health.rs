//! Health and metrics. Everything here reads atomics: neither the engine nor its queue is ever waited for, so a probe
//! is answered while the inference thread spins in native code.

use hyper::{Response, StatusCode};

use crate::api::models::{
    EngineState, ExecutableState, Health, MemoryState, PrefixMiss, PrefixMisses, SelfProbeState, Status,
};
use crate::http::State;
use crate::http::error::Problem;
use crate::http::reply::{self, Body};
use crate::lifecycle::heartbeat::{MemoryHeld, Pulse};
use crate::telemetry::metrics::{self, EngineGauges, MemoryGauges, SelfProbeGauges};

/// The process is alive: it parsed this request. Looks at nothing else (P1).
pub(crate) fn live() -> Response<Body> {
    status("live")
}

/// A real token was generated and the engine makes progress, or why that is not so (P2).
pub(crate) fn ready(state: &State) -> Result<Response<Body>, Problem> {
    check_answering(state)?;
    Ok(status("ready"))
}

fn status(status: &'static str) -> Response<Body> {
    reply::json(StatusCode::OK, serde_json::to_vec(&Status { status }).expect("a status is plain data"))
}

/// Everything, as JSON; 503 while the engine cannot answer.
pub(crate) fn report(state: &State) -> Response<Body> {
    let status = if check_answering(state).is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, serde_json::to_vec(&health(state)).expect("health is plain data"))
}

/// Everything.
pub(crate) fn health(state: &State) -> Health {
    let pulse = state.lifecycle.heartbeat.pulse();
    let binary_wrong = state.metrics.binary_integrity.wrong();
    Health {
        engine: engine_state(state, &pulse),
        running_rows: pulse.running,
        steps: pulse.steps,
        last_unit: pulse.unit.as_str(),
        requests_in_flight: state.lifecycle.drain.in_flight(),
        memory: memory(state),
        last_self_probe: last_self_probe(state),
        last_answer_tokens_per_second: state.metrics.speed.last(),
        executable: executable(state, binary_wrong.is_none()),
        prefix_misses: prefix_misses(state),
        runtime_tick_age_seconds: seconds(pulse.runtime_tick_age_ms),
        binary_integrity: binary_wrong.is_none(),
        binary_wrong,
        companion_age_seconds: state.metrics.companions.ages(),
        uptime_seconds: state.started.elapsed().as_secs_f64(),
        model: state.served.get().map(|served| served.card.id.clone()),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// The registry as text.
pub(crate) fn metrics(state: &State) -> Response<Body> {
    let pulse = state.lifecycle.heartbeat.pulse();
    let MemoryHeld { active_bytes, cache_bytes, peak_bytes } = state.lifecycle.heartbeat.memory();
    let self_probe = &state.lifecycle.self_probe;
    let text = state.metrics.render(EngineGauges {
        up: check_answering(state).is_ok(),
        last_step_age_seconds: seconds(pulse.last_progress_age_ms),
        queue_depth: pulse.queued,
        queue_oldest_age_seconds: seconds(pulse.queue_oldest_age_ms),
        running_rows: pulse.running,
        runtime_tick_age_seconds: seconds(pulse.runtime_tick_age_ms),
        requests_in_flight: state.lifecycle.drain.in_flight(),
        memory: MemoryGauges { active_bytes, cache_bytes, peak_bytes },
        self_probe: SelfProbeGauges {
            last_age_seconds: self_probe.last().map(|last| seconds(last.age_ms)),
            last_seconds: self_probe.last().map(|last| seconds(last.took_ms)),
            misses: self_probe.misses(),
            steps: self_probe.steps(),
            steps_while_clients: self_probe.steps_while_clients(),
        },
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

fn memory(state: &State) -> MemoryState {
    let MemoryHeld { active_bytes, cache_bytes, peak_bytes } = state.lifecycle.heartbeat.memory();
    MemoryState { active_bytes, cache_bytes, peak_bytes }
}

fn last_self_probe(state: &State) -> Option<SelfProbeState> {
    let self_probe = &state.lifecycle.self_probe;
    self_probe.last().map(|last| SelfProbeState {
        age_seconds: seconds(last.age_ms),
        outcome: last.outcome.as_str(),
        milliseconds: last.took_ms,
        misses: self_probe.misses(),
    })
}

fn executable(state: &State, intact: bool) -> ExecutableState {
    let (path, inode) = state.metrics.binary_integrity.found().unzip();
    ExecutableState { path: path.map(|path| path.to_string_lossy().into_owned()), inode, intact }
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
