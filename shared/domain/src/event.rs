//! Events: what happened, in order. Every durable change of a conversation or project appends to its log in the same
//! transaction; `seq` has no gaps.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ids::{ConversationId, ProjectId};

/// Which log an event belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LogId {
    /// A conversation's log.
    Conversation(ConversationId),
    /// A project's own log.
    Project(ProjectId),
}

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What an event tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }
        impl EventType {
            /// Every type, in the order of the design.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
            /// The type's name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

event_types! {
    /// A message was begun (a user's is complete at once).
    MessageCreated = "message.created",
    /// A message is complete; `data` has its whole text.
    MessageCompleted = "message.completed",
    /// A model call is tried again: the text so far is void.
    MessageReset = "message.reset",
    /// A piece of a message's text; not durable, has no `seq`.
    Delta = "delta",
    /// An agent's turn began.
    TurnStarted = "turn.started",
    /// A tool call began.
    ToolStarted = "tool.started",
    /// Output of a running tool call.
    ToolOutput = "tool.output",
    /// A tool call ended, with its result.
    ToolFinished = "tool.finished",
    /// A tool call waits for an approval.
    ApprovalRequired = "approval.required",
    /// An approval was given, denied, or ran out.
    ApprovalDecided = "approval.decided",
    /// The VM changed its state.
    VmState = "vm.state",
    /// A file was added, changed or deleted.
    FileChanged = "file.changed",
    /// Both sides changed a file, and both versions are kept; or two agents wrote it at once with the file tools. What a
    /// shell command writes is not known to be anybody's and told as a change only.
    FileConflict = "file.conflict",
    /// The VM has other files than before that the store cannot take; `data` counts and names them.
    FileUnstored = "file.unstored",
    /// A recorded install could not be repeated on a new VM; `data` has its last output.
    InstallFailed = "vm.install_failed",
    /// A VM was given the project's files; `data` has the manifest that proves it.
    WorkspaceRestored = "workspace.restored",
    /// A service changed its state.
    ServiceState = "service.state",
    /// A run waits for the one before it.
    RunQueued = "run.queued",
    /// A run began.
    RunStarted = "run.started",
    /// A run ended; `data` says how and what it cost.
    RunFinished = "run.finished",
}

/// An event of a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    /// Its number in its log: 1, 2, 3 ... without gaps. Absent on deltas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// What it tells.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// When it happened.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// The agent it is about, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Its facts; fields by type, see docs of each.
    pub data: Value,
}

/// An event before it has its place in a log.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// What it tells.
    pub kind: EventType,
    /// When it happened.
    pub at: Timestamp,
    /// The agent it is about, if one.
    pub agent_id: Option<String>,
    /// Its facts.
    pub data: Value,
}

impl NewEvent {
    /// An event that is about no agent.
    pub fn new(kind: EventType, at: Timestamp, data: Value) -> Self {
        Self { kind, at, agent_id: None, data }
    }

    /// The same event, about `agent`.
    #[must_use]
    pub fn by(mut self, agent: &str) -> Self {
        self.agent_id = Some(agent.to_owned());
        self
    }
}
