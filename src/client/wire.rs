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
