//! The records of a conversation, as stored.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::core::RunCore;
use super::usage::{Budget, Usage};
use crate::ids::{ApprovalId, ConversationId, FileId, MessageId, OwnerId, ProjectId, RunId, ToolCallId};

/// How agents take turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Each agent one turn, in order; further turns only for agents that are mentioned.
    #[default]
    RoundRobin,
    /// The agents mentioned by the user, else the first; then whoever is mentioned.
    Mention,
    /// The first agent leads: it mentions who speaks next, and speaks again after each of them.
    Moderator,
    /// All agents at once, each in its own worktree; their work is merged in order.
    Parallel,
}

/// A conversation's state as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConversationStatus {
    /// A run is under way.
    Running,
    /// The run waits for a person's decision.
    Waiting,
    /// No run is under way.
    Idle,
    /// The last run was cancelled.
    Cancelled,
    /// The last run failed; the next message starts a new one.
    Failed,
}

/// An agent's definition that a conversation or run uses: the immutable version is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedAgent {
    /// The agent.
    pub agent_id: String,
    /// Number of its version; 0 is the one built into the system.
    pub number: u64,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// Its id.
    pub conversation_id: ConversationId,
    /// The project that its agents work in.
    pub project_id: ProjectId,
    /// Who began it.
    pub owner: OwnerId,
    /// Its owner's own name for it, if given.
    pub alias: Option<String>,
    /// Who takes part, in order.
    pub agent_ids: Vec<String>,
    /// How they take turns.
    pub mode: Mode,
    /// The most turns of one run.
    pub max_turns: u32,
    /// The most that all runs may use.
    pub budget: Budget,
    /// Files that the user pointed the agents to.
    pub file_ids: Vec<FileId>,
    /// Its state.
    pub status: ConversationStatus,
    /// The run under way.
    pub active_run: Option<RunId>,
    /// Runs that wait for it, in order.
    pub queued: Vec<RunId>,
    /// Runs so far.
    pub run_count: u32,
    /// Messages that have their place so far; places are 1, 2, 3 ...
    pub message_count: u64,
    /// Summaries that stand for older messages in an agent's context: by agent, the place up to which.
    pub compacted: BTreeMap<String, Compaction>,
    /// Agents whose window was nearly full when a run ended: their context is summarised before they speak again.
    #[serde(default)]
    pub crowded: BTreeSet<String>,
    /// What all ended runs used.
    pub usage: Usage,
    /// The conversation this is a fork of, and its `seq` there.
    pub forked_from: Option<(ConversationId, u64)>,
    /// Whether it is counted as running.
    #[serde(default)]
    pub counted: crate::fair_use::Counted,
    /// When it was begun.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// A summary that stands for the beginning of the conversation in one agent's context. The messages themselves stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// Messages up to this place are summarised.
    pub up_to: u64,
    /// The summary.
    pub summary: String,
}

/// Points from a client's own name of a conversation to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConversationAlias {
    /// Whose name.
    pub owner: OwnerId,
    /// The name.
    pub alias: String,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Counts the changes of this record.
    pub version: u64,
}

/// Who wrote a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "author", rename_all = "snake_case")]
pub enum Author {
    /// A person.
    User,
    /// An agent.
    Agent {
        /// Which.
        agent_id: String,
    },
    /// The system: results of `/vm` lines, notes.
    System,
}

/// Why a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessageEnd {
    /// It is complete.
    Complete,
    /// It asks for tools.
    ToolCalls,
    /// It reached the longest length of an answer.
    MaxTokens,
    /// The model, or its provider, declined.
    Refused,
    /// The model answered nothing.
    Empty,
    /// The run ended before it was complete.
    Cut,
}

/// A call as it stands in the message that asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRef {
    /// The call.
    pub tool_call_id: ToolCallId,
    /// The provider's id of it; `None` for a `/vm` line.
    pub provider_id: Option<String>,
}

/// A place between the parts of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockPlace {
    /// Bytes of the text before it.
    pub text: usize,
    /// Calls before it.
    pub calls: usize,
}

/// A message that has its place in the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Its place: 1, 2, 3 ...
    pub place: u64,
    /// Its id.
    pub message_id: MessageId,
    /// The run it belongs to.
    pub run_id: RunId,
    /// Who wrote it.
    pub author: Author,
    /// Its text, at most 256 KiB (a record holds 400 KB).
    pub text: String,
    /// The calls it asks for.
    pub calls: Vec<CallRef>,
    /// The lane of a parallel run that wrote it: other lanes do not see it before the merge.
    pub lane: Option<u32>,
    /// Calls and lines that were not taken up, in words for the model.
    pub note: Option<String>,
    /// Which provider the opaque blocks belong to.
    pub provider: Option<String>,
    /// Blocks that go back to that provider unchanged.
    pub opaque: Vec<Value>,
    /// What comes before each of them; those without a place come first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque_after: Vec<BlockPlace>,
    /// Why it ended.
    pub end: MessageEnd,
    /// When it was complete.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

impl Message {
    /// A complete message of text only, without a place yet.
    pub fn new(
        conversation_id: ConversationId,
        message_id: MessageId,
        run_id: RunId,
        author: Author,
        text: String,
        created_at: Timestamp,
    ) -> Self {
        Self {
            conversation_id,
            place: 0,
            message_id,
            run_id,
            author,
            text,
            calls: Vec::new(),
            lane: None,
            note: None,
            provider: None,
            opaque: Vec::new(),
            opaque_after: Vec::new(),
            end: MessageEnd::Complete,
            created_at,
            version: 0,
        }
    }
}

/// A run's state as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// It waits for the run before it.
    Queued,
    /// Under way.
    Running,
    /// It waits for a person's decision.
    Waiting,
    /// Ended; see the outcome.
    Finished,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// The agents were done.
    Completed,
    /// A limit ended it.
    Stopped,
    /// Somebody cancelled it.
    Cancelled,
    /// A fault ended it.
    Failed,
}

/// How and why a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Outcome {
    /// How.
    pub kind: OutcomeKind,
    /// Why, as a stable word such as `max_turns`; none where the agents were done.
    pub reason: Option<String>,
    /// Why, for people.
    pub detail: Option<String>,
}

/// The lane of a parallel run that a run works off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The parallel run.
    pub parent: RunId,
    /// Its place among the lanes, from 0.
    pub index: u32,
    /// Its directory inside the VM.
    pub worktree: String,
    /// The VM epoch that the directory was made in: with another VM it is gone, and nothing may be written where it was.
    pub fence: u64,
}

/// A run: one user message being worked off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Its id.
    pub run_id: RunId,
    /// The project.
    pub project_id: ProjectId,
    /// The message that it works off.
    pub message_id: MessageId,
    /// That message's text, as recordings are found by it; at most 4 KiB of it.
    pub initial_message: String,
    /// Its state.
    pub status: RunStatus,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Agents, with the versions that it uses.
    pub agents: Vec<PinnedAgent>,
    /// The rules' own state.
    pub core: RunCore,
    /// Number of the workflow execution that works on it, from 1.
    pub segment: u32,
    /// The lane it is, in a parallel run.
    pub lane: Option<Lane>,
    /// Task tokens that the workflow waits with for the lanes, of every try of its state: which of the tries is the one
    /// that counts, only the workflow knows. Never shown.
    pub join_tokens: Vec<String>,
    /// The VM epoch in which it holds the VM, if it does.
    pub vm_epoch: Option<u64>,
    /// When it began to hold the VM.
    pub vm_since: Option<Timestamp>,
    /// Its cancelled calls that may still be running in the VM.
    #[serde(default)]
    pub unkilled: Vec<ToolCallId>,
    /// When the clean-up should look at it.
    pub due_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Counts the changes of this record.
    pub version: u64,
}

impl Run {
    /// The name of the workflow execution of a segment: the same however often it is started.
    pub fn execution_name(&self) -> String {
        format!("{}-{}", self.run_id, self.segment)
    }

    /// Whether nothing happens in it any more.
    pub fn is_over(&self) -> bool {
        self.status == RunStatus::Finished
    }
}

/// A model call of a run, kept for idempotency, cost and fault finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Its number in the run, from 1.
    pub number: u32,
    /// Who spoke.
    pub agent_id: String,
    /// The model that answered.
    pub model: String,
    /// The try that was answered, from 1.
    pub attempt: u32,
    /// SHA-256 of the request, hex.
    pub request_hash: String,
    /// The message with the answer.
    pub message_id: MessageId,
    /// What the call used.
    pub usage: Usage,
    /// When it was answered.
    pub answered_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// Where a call came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallOrigin {
    /// The model called a tool.
    Tool,
    /// A `/vm` line of the agent's text.
    VmLine,
}

/// How a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CallStatus {
    /// Asked for; nothing was done yet.
    Planned,
    /// About to be started, or started with the answer lost: from here on it is only watched.
    Claimed,
    /// Known to have started.
    Started,
    /// Ended, with a result (which may be an error).
    Done,
    /// It was not run, or could not be watched to its end.
    Failed,
    /// Its VM went away while it ran: nobody can know its outcome, and it is not run again.
    Lost,
    /// The run ended before it did.
    Cancelled,
}

impl CallStatus {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Planned | Self::Claimed | Self::Started)
    }
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Its id, and the id of its run in the VM's journal.
    pub tool_call_id: ToolCallId,
    /// Number of the step that asked for it.
    pub step: u32,
    /// The agent that asked.
    pub agent_id: String,
    /// Where it came from.
    pub origin: CallOrigin,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
    /// How it stands.
    pub status: CallStatus,
    /// The VM epoch it was claimed in.
    pub epoch: Option<u64>,
    /// The VM it was claimed for.
    pub vm_id: Option<String>,
    /// The approval it needs, if any.
    pub approval_id: Option<ApprovalId>,
    /// How often it was looked at after its first inline wait.
    pub polls: u32,
    /// Milliseconds that steps worked on it.
    #[serde(default)]
    pub step_ms: u64,
    /// What it answered, at most 32 KiB.
    pub result: Option<CallResult>,
    /// When it was claimed.
    pub started_at: Option<Timestamp>,
    /// When its end was noted.
    pub finished_at: Option<Timestamp>,
    /// Counts the changes of this record.
    pub version: u64,
}

/// What a call answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallResult {
    /// It did not do what was asked.
    pub is_error: bool,
    /// For the model.
    pub text: String,
    /// The same as data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured: Option<Value>,
    /// Where in the VM the whole output is, where `text` is not the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_path: Option<String>,
}

/// What a message sent during a run does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// It is worked off by a run of its own, after those before it.
    #[default]
    Queue,
    /// It joins the run under way before its next model call.
    Steer,
    /// It ends the run under way, keeping what was done, and is worked off at once.
    Interrupt,
}

/// A user's message that has no place in the conversation yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InboxEntry {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message's id.
    pub message_id: MessageId,
    /// The run that will take it up.
    pub run_id: RunId,
    /// Its text.
    pub text: String,
    /// When it was sent.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// How an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalStatus {
    /// Nobody decided yet.
    Pending,
    /// The call may run.
    Approved,
    /// The call may not run.
    Denied,
    /// Nobody decided in time: the call may not run.
    Expired,
}

/// A question to a person: may this call run?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Approval {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The run.
    pub run_id: RunId,
    /// Its id.
    pub approval_id: ApprovalId,
    /// The call.
    pub tool_call_id: ToolCallId,
    /// The agent that asked for the call.
    pub agent_id: String,
    /// The tool.
    pub name: String,
    /// The arguments, as asked.
    pub arguments: Value,
    /// SHA-256 of tool and arguments, hex: the decision is good for exactly this.
    pub request_hash: String,
    /// How it stands.
    pub status: ApprovalStatus,
    /// Who decided.
    pub decided_by: Option<OwnerId>,
    /// What they said about it.
    pub comment: Option<String>,
    /// Task tokens that the workflow waits with, of every try of its state; never shown.
    pub tokens: Vec<String>,
    /// When it runs out.
    pub expires_at: Timestamp,
    /// When it was asked.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}
