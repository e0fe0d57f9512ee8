//! The few fields of the OpenAI wire that a client of ours reads and writes. It refuses unknown-field strictness: a probe
//! must not fail because a server says more than it needs to hear.

use serde::{Deserialize, Serialize};

/// A chat request with the fields that probes set.
#[derive(Debug, Clone, Serialize)]
pub struct ChatRequest {
    /// The model; absent for the one that is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// 0 is greedy.
    pub temperature: f32,
    /// Most tokens to generate.
    pub max_completion_tokens: u32,
    /// Whether the answer comes as events.
    pub stream: bool,
}

/// A chat request for a stream of a known length, as load generators send it.
#[derive(Debug, Clone, Serialize)]
pub struct StreamRequest {
    /// The model.
    pub model: String,
    /// The conversation.
    pub messages: Vec<Message>,
    /// 0 is greedy.
    pub temperature: f32,
    /// Tokens to generate.
    pub max_completion_tokens: u32,
    /// The model's own end of text does not end the answer.
    pub ignore_eos: bool,
    /// Always true.
    pub stream: bool,
    /// What else the stream carries.
    pub stream_options: StreamOptions,
}

/// What a stream carries besides text.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StreamOptions {
    /// A last chunk has the token counts.
    pub include_usage: bool,
}

/// One event of a stream.
#[derive(Debug, Clone, Deserialize)]
pub struct Chunk {
    /// Absent in an error.
    #[serde(default)]
    pub choices: Vec<ChunkChoice>,
    /// Token counts, in the last chunk.
    pub usage: Option<Usage>,
    /// The server's words for what computed the answer.
    pub system_fingerprint: Option<String>,
    /// What went wrong after the first byte.
    pub error: Option<ErrorBody>,
}

/// The news of one answer.
#[derive(Debug, Clone, Deserialize)]
pub struct ChunkChoice {
    /// What is new.
    #[serde(default)]
    pub delta: Delta,
    /// Why it is complete, in its last chunk.
    pub finish_reason: Option<String>,
}

/// New text.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Delta {
    /// Of the answer.
    pub content: Option<String>,
    /// Of the reasoning before it.
    pub reasoning_content: Option<String>,
}

impl Delta {
    /// Whether there is any text; the first delta has a role only.
    #[must_use]
    pub fn has_text(&self) -> bool {
        [&self.content, &self.reasoning_content].into_iter().flatten().any(|text| !text.is_empty())
    }
}

/// Token counts.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u32,
    /// Of the answer.
    pub completion_tokens: u32,
    /// More about the prompt's.
    pub prompt_tokens_details: Option<PromptTokensDetails>,
}

/// Token counts of a prompt.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct PromptTokensDetails {
    /// Those that were not computed again.
    pub cached_tokens: Option<u32>,
}

/// One message of a conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: String,
    /// What is said; absent in a tool call.
    pub content: Option<String>,
}

/// A whole chat answer.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatAnswer {
    /// The answers, in their order.
    pub choices: Vec<Choice>,
}

/// One answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Choice {
    /// What was said.
    pub message: Message,
}

/// What `GET /v1/models` lists.
#[derive(Debug, Clone, Deserialize)]
pub struct Models {
    /// The loaded models.
    pub data: Vec<Model>,
}

/// One loaded model.
#[derive(Debug, Clone, Deserialize)]
pub struct Model {
    /// Its name in requests.
    pub id: String,
}

/// The envelope of every refusal.
#[derive(Debug, Clone, Deserialize)]
pub struct ErrorEnvelope {
    /// The refusal.
    pub error: ErrorBody,
}

/// A refusal.
#[derive(Debug, Clone, Deserialize)]
pub struct ErrorBody {
    /// For people.
    pub message: String,
    /// For programs.
    pub code: Option<String>,
}
