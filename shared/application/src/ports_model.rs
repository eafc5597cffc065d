//! Language models as use cases see them: one call in, text in pieces and one answer out.

use std::future::Future;
use std::time::Duration;

use pvm_domain::conversation::BlockPlace;
use pvm_domain::ids::{ConversationId, RunId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

/// Whose words a message of the context holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything that is not the model's own: people, other agents, tool results.
    User,
    /// The model's own earlier answers.
    Assistant,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A call that the model made.
    ToolUse {
        /// The provider's id of the call.
        id: String,
        /// The tool.
        name: String,
        /// Its arguments; `{}` where the model's were not JSON.
        arguments: Value,
    },
    /// The result of a call.
    ToolResult {
        /// The provider's id of the call.
        id: String,
        /// The result.
        text: String,
        /// Whether it failed.
        is_error: bool,
    },
    /// Something of one provider (reasoning, signatures) that goes back to it unchanged and to no other.
    Opaque {
        /// The provider.
        provider: String,
        /// Its own form.
        value: Value,
    },
}

/// A message of the context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelMessage {
    /// Whose words.
    pub role: Role,
    /// Its parts.
    pub blocks: Vec<Block>,
}

/// A tool as a model is told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelTool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON schema of its arguments.
    pub input_schema: Value,
}

/// Which call this is; real providers use it for cache keys only, recordings are found by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPlace {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Who speaks.
    pub agent_id: String,
    /// The user's message that the run works off.
    pub initial_message: String,
    /// Number of the turn in the run, from 0.
    pub turn: u32,
    /// Number of this agent's call in the run, from 0.
    pub agent_step: u32,
}

/// One model call.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRequest {
    /// `provider/model`.
    pub model: String,
    /// System prompt.
    pub system: String,
    /// The conversation so far; the first is the user's.
    pub messages: Vec<ModelMessage>,
    /// Tools it may call.
    pub tools: Vec<ModelTool>,
    /// Sampling temperature; left out where the provider takes none.
    pub temperature: Option<f32>,
    /// The most tokens of the answer.
    pub max_tokens: u32,
    /// Which call this is.
    pub place: CallPlace,
}

/// A call that the model wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WantedCall {
    /// The provider's id of the call.
    pub provider_id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, or the text that should have been JSON and is not.
    pub arguments: Result<Value, String>,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// It was done.
    End,
    /// It wants tools called.
    ToolCalls,
    /// The answer reached its longest length; it is cut.
    MaxTokens,
    /// It, or a filter before it, declined.
    Refusal,
}

/// What a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage {
    /// Tokens of the request, cached ones included.
    pub input: u64,
    /// Tokens of the answer, reasoning included.
    pub output: u64,
    /// Tokens of the request that came from the provider's cache.
    pub cache_read: u64,
    /// Tokens of the request that were put into the provider's cache.
    pub cache_write: u64,
    /// Price in millionths of a US dollar; 0 where the price is not known.
    pub cost_microusd: u64,
}

/// A block of the provider's own in an answer, such as reasoning with its signature.
#[derive(Debug, Clone, PartialEq)]
pub struct OpaqueBlock {
    /// What of the answer comes before it.
    pub after: BlockPlace,
    /// Its own form.
    pub value: Value,
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelAnswer {
    /// Its text.
    pub text: String,
    /// Calls it wants, in order.
    pub calls: Vec<WantedCall>,
    /// Blocks to send back unchanged with this answer, each in its place.
    pub opaque: Vec<OpaqueBlock>,
    /// Why it stopped.
    pub stop: Stop,
    /// What it used.
    pub usage: TokenUsage,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The provider is overloaded or does not answer; later it may.
    #[error("the model's provider is overloaded")]
    Overloaded {
        /// When to come back, where the provider said so.
        retry_after: Option<Duration>,
    },
    /// We call too often.
    #[error("the model's provider limits our rate")]
    RateLimited {
        /// When to come back, where the provider said so.
        retry_after: Option<Duration>,
    },
    /// The provider declined the request as such.
    #[error("the provider refused the request: {0}")]
    Refused(String),
    /// The context is longer than the model's window.
    #[error("the context is longer than the model's window")]
    ContextOverflow,
    /// No such provider or model, no key, or a key that is not good: nothing changes until somebody configures it.
    #[error("{0}")]
    NotConfigured(String),
    /// The answer broke off or made no sense; a new try may do.
    #[error("the model's answer broke: {0}")]
    Broken(String),
}

/// What is known of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelFacts {
    /// Tokens of its context window.
    pub context_tokens: u64,
    /// The most tokens of one answer, used where the agent names none.
    pub answer_tokens: u32,
    /// Whether its price is known, so that a budget in money can be kept.
    pub priced: bool,
}

/// Knows which language models can be called.
pub trait KnowModels: Send + Sync {
    /// The model of agents that name none.
    fn default_model(&self) -> &str;

    /// Whether `model` can be called as things are configured, and what is known of it.
    ///
    /// # Errors
    /// `NotConfigured` says what is missing.
    fn facts(&self, model: &str) -> Result<ModelFacts, ModelError>;

    /// Asks the provider whether it has `model`, so that a misspelt one is refused before it is used. A provider that
    /// does not answer, or has no such question, refuses nothing.
    ///
    /// # Errors
    /// `NotConfigured` where the provider says that there is none.
    fn confirm(&self, model: &str) -> impl Future<Output = Result<(), ModelError>> + Send {
        let _ = model;
        async { Ok(()) }
    }
}

/// Calls language models.
pub trait CallModel: KnowModels {
    /// Calls the model. Pieces of its text go to `text` as they come; the answer has the whole. Dropping the future
    /// ends the call.
    ///
    /// # Errors
    /// See [`ModelError`].
    fn call(
        &self,
        request: &ModelRequest,
        text: mpsc::Sender<String>,
    ) -> impl Future<Output = Result<ModelAnswer, ModelError>> + Send;
}
