//! Inputs and outputs of the steps of `run-turn`. Flat JSON: ids and small control fields, never a transcript.

use pvm_domain::ids::{ApprovalId, ConversationId, RunId, ToolCallId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The input of an execution of `run-turn`, and of most of its steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunInput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Number of the execution that works on it, from 1.
    pub segment: u32,
}

/// What comes next, as the state machine's Choice reads it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NextStep {
    /// Think.
    #[default]
    Think,
    /// Get the VM ready.
    EnsureVm,
    /// Run tool calls one after the other.
    Act,
    /// Run tool calls at the same time.
    ActParallel,
    /// Ask a person.
    Approve,
    /// Wait, then think.
    Wait,
    /// Start the lanes of a parallel run and wait for them.
    Lanes,
    /// Go on in a new execution.
    Continue,
    /// The run is over.
    Finish,
}

/// A tool call to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolItem {
    /// The call.
    pub tool_call_id: ToolCallId,
}

/// The control part of a step's output. Every field is always there, so that a Choice never misses one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepControl {
    /// What comes next.
    pub next: NextStep,
    /// Whether the VM must be readied first.
    pub needs_vm: bool,
    /// Tool calls to run.
    pub items: Vec<ToolItem>,
    /// The approval to ask for.
    pub approval_id: Option<ApprovalId>,
    /// Seconds to wait.
    pub delay_secs: u64,
}

impl StepControl {
    /// Only what comes next.
    pub fn next(next: NextStep) -> Self {
        Self { next, ..Self::default() }
    }
}

/// The output of a step: its input's ids again, and what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunOutput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Number of the execution.
    pub segment: u32,
    /// What comes next.
    pub step: StepControl,
}

impl RunInput {
    /// The output of a step with this input.
    pub fn output(self, step: StepControl) -> RunOutput {
        RunOutput { conversation_id: self.conversation_id, run_id: self.run_id, segment: self.segment, step }
    }
}

/// Input of `run-tool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunToolInput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// The call.
    pub tool_call_id: ToolCallId,
    /// How often it was looked at before.
    #[serde(default)]
    pub polls: u32,
}

/// Whether a tool call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolState {
    /// It has a result.
    Done,
    /// Look again later.
    Running,
}

/// Output of `run-tool` and `fail-tool`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunToolOutput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// The call.
    pub tool_call_id: ToolCallId,
    /// Whether it ended.
    pub status: ToolState,
    /// Seconds until it should be looked at again.
    pub delay_secs: u64,
    /// How often it was looked at, this time included.
    pub polls: u32,
}

/// Input of `fail-tool`: the error that the state machine caught.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailToolInput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// The call.
    pub tool_call_id: ToolCallId,
    /// Name of the error.
    #[serde(default)]
    pub error: String,
    /// Its cause: the JSON `{errorType, errorMessage}` of a step, or text.
    #[serde(default)]
    pub cause: String,
}

/// Input of `ask-approval` and `start-lanes`, which wait for a task token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingInput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Number of the execution.
    pub segment: u32,
    /// The approval, where one is asked for.
    #[serde(default)]
    pub approval_id: Option<ApprovalId>,
    /// The token that ends the wait; a secret.
    pub token: String,
}

/// Input of `expire-approval`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExpireApprovalInput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Number of the execution.
    pub segment: u32,
    /// The approval that nobody decided.
    pub approval_id: ApprovalId,
}

/// Input of `finish-run`; with an error where the state machine caught one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FinishInput {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Number of the execution.
    pub segment: u32,
    /// Name of the error.
    #[serde(default)]
    pub error: Option<String>,
    /// Its cause.
    #[serde(default)]
    pub cause: Option<String>,
}

/// The text behind an error that a state machine caught: a step's message where it has one.
pub fn caught(error: &str, cause: &str) -> String {
    let message = serde_json::from_str::<serde_json::Value>(cause)
        .ok()
        .and_then(|cause| cause.get("errorMessage")?.as_str().map(str::to_owned));
    match message {
        Some(text) => text,
        None if cause.is_empty() => error.to_owned(),
        None => cause.to_owned(),
    }
}
