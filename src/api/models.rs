//! `GET /v1/models` and `GET /health`: what is loaded, and the state of the engine beside it, so that a monitor that
//! reads nothing else can see a hang.

use std::collections::BTreeMap;

use serde::Serialize;

/// OpenAI's list, with our state beside it.
#[derive(Debug, Clone, Serialize)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// The loaded model, then its aliases.
    pub data: Vec<Model>,
    /// The engine's state.
    pub sanctum: EngineState,
}

/// One model that can answer.
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// The name to send as `model`.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// Unix seconds of the model's files.
    pub created: u64,
    /// Always `sanctum-mlx`.
    pub owned_by: &'static str,
    /// Most tokens of prompt and answer together.
    pub context_length: u32,
    /// How the weights are represented.
    pub quantization: String,
    /// Name of the merged adapter.
    pub adapter: Option<String>,
}

/// `GET /health/live` and `GET /health/ready`, while it is so.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Status {
    /// `live` or `ready`.
    pub status: &'static str,
}

/// The state of the engine: the gauges in which the incident would have been visible.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EngineState {
    /// The phase of the process.
    pub phase: &'static str,
    /// Why it is stalled or dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One start of the process; also the `x-sanctum-instance` header.
    pub instance: String,
    /// Seconds since the inference thread last finished a unit of work.
    pub last_step_age_seconds: f64,
    /// Jobs waiting.
    pub queue_depth: u32,
    /// Seconds the oldest of them has waited.
    pub queue_oldest_age_seconds: f64,
}

/// `GET /health`: the same and more, for a person.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// The state that `/v1/models` carries too.
    #[serde(flatten)]
    pub engine: EngineState,
    /// Rows being generated.
    pub running_rows: u32,
    /// Steps since the start.
    pub steps: u64,
    /// The unit of work that finished last.
    pub last_unit: &'static str,
    /// Requests whose response has not been delivered in full.
    pub requests_in_flight: usize,
    /// What the model and its rows hold in memory.
    pub memory: MemoryState,
    /// The last token that the process asked itself for.
    pub last_self_probe: Option<SelfProbeState>,
    /// How fast the last answer was decoded.
    pub last_answer_tokens_per_second: Option<f64>,
    /// The file that this process was started from.
    pub executable: ExecutableState,
    /// Prompts for which nothing that was computed could be used.
    pub prefix_misses: PrefixMisses,
    /// Seconds since the async runtime's ticker last ran.
    pub runtime_tick_age_seconds: f64,
    /// Whether the executable on disk is the one that runs: if not, the next start fails or runs another.
    pub binary_integrity: bool,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary_wrong: Option<String>,
    /// Seconds since the last tick of each watcher that ever ran.
    pub companion_age_seconds: BTreeMap<&'static str, f64>,
    /// Seconds since the process began to serve.
    pub uptime_seconds: f64,
    /// The loaded model.
    pub model: Option<String>,
    /// The version of this program.
    pub version: &'static str,
}

/// Bytes, as the inference thread last told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryState {
    /// In arrays that live.
    pub active_bytes: u64,
    /// In freed buffers that are kept for reuse.
    pub cache_bytes: u64,
    /// The most that was ever active since the model was loaded.
    pub peak_bytes: u64,
}

/// What became of the last self-probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SelfProbeState {
    /// Seconds since it ended.
    pub age_seconds: f64,
    /// `answered`, `yielded` to a client, `missed` its deadline, or `failed`.
    pub outcome: &'static str,
    /// How long it took.
    pub milliseconds: u64,
    /// Misses in a row, with no token since.
    pub misses: u32,
}

/// The file that the process was started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecutableState {
    /// Where it is.
    pub path: Option<String>,
    /// The inode that runs.
    pub inode: Option<u64>,
    /// It is still there as it was: the next start runs the same.
    pub intact: bool,
}

/// Prompts for which nothing that was computed could be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrefixMisses {
    /// How many since the start, by reason.
    #[serde(flatten)]
    pub counts: BTreeMap<&'static str, u64>,
    /// The last one.
    pub last: Option<PrefixMiss>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PrefixMiss {
    /// Why.
    pub reason: &'static str,
    /// The place of the first token of the prompt that nothing known has there.
    pub position: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_carries_the_engines_state_beside_openais_members() {
        let list = ModelList {
            object: "list",
            data: vec![Model {
                id: "org/model".to_owned(),
                object: "model",
                created: 7,
                owned_by: "sanctum-mlx",
                context_length: 2048,
                quantization: "q4_0".to_owned(),
                adapter: None,
            }],
            sanctum: EngineState {
                phase: "ready",
                reason: None,
                instance: "i".to_owned(),
                last_step_age_seconds: 0.25,
                queue_depth: 0,
                queue_oldest_age_seconds: 0.0,
            },
        };
        insta::assert_snapshot!(serde_json::to_string_pretty(&list).expect("plain data"), @r#"
        {
          "object": "list",
          "data": [
            {
              "id": "org/model",
              "object": "model",
              "created": 7,
              "owned_by": "sanctum-mlx",
              "context_length": 2048,
              "quantization": "q4_0",
              "adapter": null
            }
          ],
          "sanctum": {
            "phase": "ready",
            "instance": "i",
            "last_step_age_seconds": 0.25,
            "queue_depth": 0,
            "queue_oldest_age_seconds": 0.0
          }
        }
        "#);
    }
}
