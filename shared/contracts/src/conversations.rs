//! Conversations on the wire.

use jiff::Timestamp;
use pvm_domain::conversation::{
    ApprovalStatus, Author, Budget, ConversationStatus, Delivery, MessageEnd, Mode, Outcome, RunStatus, Usage,
};
use pvm_domain::ids::{ApprovalId, ConversationId, FileId, MessageId, OwnerId, ProjectId, RunId, ToolCallId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Body of `POST /api/projects/{project_id}/conversations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateConversation {
    /// Who takes part, in order; 1 to 10 different agents.
    #[schemars(length(min = 1, max = 10))]
    pub agent_ids: Vec<String>,
    /// The first message; at most 256 KiB, and 360 KiB as it is written in JSON.
    #[schemars(length(min = 1))]
    pub initial_message: String,
    /// Your own name for the conversation, `[A-Za-z0-9_.-]{1,128}`, unique among yours. Accepted wherever its id is.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub conversation_id: Option<String>,
    /// How the agents take turns.
    #[serde(default)]
    pub mode: Mode,
    /// The most turns of one run, 1 to 100; absent means 25.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub max_turns: Option<u32>,
    /// The most that all runs of the conversation may use.
    #[serde(default)]
    pub budget: Budget,
    /// Files of the project that the agents are pointed to; at most 100.
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub file_ids: Vec<FileId>,
}

/// Body of `POST /chat/agents/conversation`: the same, with the project in the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProjectConversation {
    /// The project.
    pub project_id: String,
    /// See [`CreateConversation`].
    #[schemars(length(min = 1, max = 10))]
    pub agent_ids: Vec<String>,
    /// See [`CreateConversation`].
    #[schemars(length(min = 1))]
    pub initial_message: String,
    /// See [`CreateConversation`].
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub conversation_id: Option<String>,
    /// See [`CreateConversation`].
    #[serde(default)]
    pub mode: Mode,
    /// See [`CreateConversation`].
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    pub max_turns: Option<u32>,
    /// See [`CreateConversation`].
    #[serde(default)]
    pub budget: Budget,
    /// See [`CreateConversation`].
    #[serde(default)]
    #[schemars(length(max = 100))]
    pub file_ids: Vec<FileId>,
}

impl CreateProjectConversation {
    /// The project's text and the rest.
    pub fn split(self) -> (String, CreateConversation) {
        let rest = CreateConversation {
            agent_ids: self.agent_ids,
            initial_message: self.initial_message,
            conversation_id: self.conversation_id,
            mode: self.mode,
            max_turns: self.max_turns,
            budget: self.budget,
            file_ids: self.file_ids,
        };
        (self.project_id, rest)
    }
}

/// Body of `POST .../conversations/{conversation_id}/messages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// The message; at most 256 KiB, and 360 KiB as it is written in JSON.
    #[schemars(length(min = 1))]
    pub message: String,
    /// What it does while a run is under way; without one, every kind begins a run.
    #[serde(default)]
    pub delivery: Delivery,
}

/// Body of `POST .../conversations/{conversation_id}/approvals/{approval_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecideApproval {
    /// The decision.
    pub decision: Decision,
    /// The `request_hash` that was decided on; a decision on something else is refused.
    #[serde(default)]
    pub request_hash: Option<String>,
    /// Words for the record, at most 1,000 characters.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub comment: Option<String>,
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The call may run.
    Approve,
    /// The call may not run.
    Deny,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conversation {
    /// Its id.
    pub conversation_id: ConversationId,
    /// Its owner's own name for it.
    pub alias: Option<String>,
    /// The project.
    pub project_id: ProjectId,
    /// Who takes part, in order.
    pub agent_ids: Vec<String>,
    /// How they take turns.
    pub mode: Mode,
    /// The most turns of one run.
    pub max_turns: u32,
    /// The most that all runs may use.
    pub budget: Budget,
    /// Files that the agents are pointed to.
    pub file_ids: Vec<FileId>,
    /// Its state.
    pub status: ConversationStatus,
    /// The run under way, or the last one.
    pub run: Option<Run>,
    /// Runs that wait, in order.
    pub queued: Vec<RunId>,
    /// Runs so far.
    pub run_count: u32,
    /// Messages so far.
    pub message_count: u64,
    /// Approvals that wait for a decision.
    pub approvals: Vec<Approval>,
    /// What all runs used, the one under way included.
    pub usage: Usage,
    /// The conversation that this one continues, where it is a fork. Its messages and calls are copied as they stood then;
    /// the VM is not, because it is the project's and shared by all its conversations: a fork's agents find the workspace as
    /// it is now.
    pub forked_from: Option<ConversationId>,
    /// The `seq` of the last event of that conversation which this one has.
    pub forked_at: Option<u64>,
    /// When it was begun.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schemars(schema_with = "crate::time::time")]
    pub updated_at: Timestamp,
    /// Counts the changes; the `ETag`.
    pub version: u64,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Its id.
    pub run_id: RunId,
    /// Its state.
    pub status: RunStatus,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// What it used.
    pub usage: Usage,
    /// Who has the turn.
    pub agent_id: Option<String>,
    /// When it was made.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// When it ended.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub finished_at: Option<Timestamp>,
}

/// Answer of creating a conversation or sending a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MessageAccepted {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// The run that takes it up.
    pub run_id: RunId,
    /// How that run stands.
    pub run_status: RunStatus,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Its id.
    pub message_id: MessageId,
    /// Its place: 1, 2, 3 ...
    pub place: u64,
    /// The run it belongs to.
    pub run_id: RunId,
    /// Who wrote it.
    #[serde(flatten)]
    pub author: Author,
    /// Its text.
    pub text: String,
    /// The calls it asks for.
    pub tool_calls: Vec<ToolCallId>,
    /// Why it ended.
    pub end: MessageEnd,
    /// When it was complete.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
}

/// An approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// Its id.
    pub approval_id: ApprovalId,
    /// The run that waits for it.
    pub run_id: RunId,
    /// The call it is about.
    pub tool_call_id: ToolCallId,
    /// The agent that asked for the call.
    pub agent_id: String,
    /// The tool.
    pub name: String,
    /// The arguments, as asked.
    pub arguments: Value,
    /// What the decision is bound to.
    pub request_hash: String,
    /// How it stands.
    pub status: ApprovalStatus,
    /// Who decided.
    pub decided_by: Option<OwnerId>,
    /// What they said about it.
    pub comment: Option<String>,
    /// When it runs out.
    #[schemars(schema_with = "crate::time::time")]
    pub expires_at: Timestamp,
    /// When it was asked.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
}
