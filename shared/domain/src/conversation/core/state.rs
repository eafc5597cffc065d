//! The state of a run, as it is stored.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::conversation::records::{Mode, Outcome};
use crate::conversation::usage::{Budget, Usage};
use crate::ids::{ApprovalId, MessageId, ToolCallId};

/// An agent's place in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The agent.
    pub agent_id: String,
    /// The most turns it takes in the run.
    pub max_turns: Option<u32>,
    /// Whom it may hand over to; `None` is everybody.
    pub may_talk_to: Option<Vec<String>>,
    /// The most that it may use in the run.
    #[serde(default)]
    pub budget: Budget,
}

/// What is fixed when a run begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// How agents take turns.
    pub mode: Mode,
    /// Who takes part, in order; at least one.
    pub seats: Vec<Seat>,
    /// The most turns of the run.
    pub max_turns: u32,
    /// The budget of the conversation.
    pub budget: Budget,
    /// What the conversation's earlier runs used of it.
    pub spent: Usage,
}

/// An agent's go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Its number in the run, from 1.
    pub number: u32,
    /// Whose.
    pub agent_id: String,
    /// Model calls it had.
    pub steps: u32,
    /// Whether its context was summarised during this turn.
    pub compacted: bool,
    /// Whether the agent was told that `/vm` lines in a code fence are not run.
    pub told_of_fences: bool,
}

/// A message that was begun and is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenMessage {
    /// Its id.
    pub message_id: MessageId,
    /// Who writes it.
    pub agent_id: String,
    /// The last try of the model call.
    pub attempt: u32,
}

/// What a model call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The agent speaks.
    Speak,
    /// The older part of its context is summarised, so that the rest fits its window.
    Summarise,
}

/// A model call under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Number of the step, from 1.
    pub step: u32,
    /// The try, from 1; counts over all tries of the same message.
    pub attempt: u32,
    /// Who speaks.
    pub agent_id: String,
    /// The message it writes, or would.
    pub message_id: MessageId,
    /// What it is for.
    pub purpose: Purpose,
}

/// A tool call under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActingCall {
    /// Its id.
    pub tool_call_id: ToolCallId,
    /// The approval it needs.
    pub approval_id: Option<ApprovalId>,
    /// Whether it needs the VM.
    pub needs_vm: bool,
    /// Whether it changes nothing.
    pub read_only: bool,
    /// Whether it is a `/vm` line.
    pub vm_line: bool,
}

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// It was not begun.
    New,
    /// Nothing is under way: somebody speaks next, or it ends.
    Deciding,
    /// A model call is under way.
    Calling(Call),
    /// Tool calls of a step are under way.
    Acting {
        /// The step.
        step: u32,
        /// Its calls that were taken up.
        calls: Vec<ActingCall>,
        /// What the agent is told about calls that were not.
        note: Option<String>,
    },
    /// The lanes of a parallel run are under way, or wait to be merged where none is open.
    Lanes {
        /// Lanes that have not ended.
        open: Vec<u32>,
    },
    /// It ended.
    Ended,
}

/// A user's message that waits to join the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steer {
    /// The message.
    pub message_id: MessageId,
    /// Agents it mentions.
    pub mentions: Vec<String>,
}

/// The last call, for noticing that it is made again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// Who made it.
    pub agent_id: String,
    /// A hash of tool and arguments.
    pub hash: u64,
    /// How often in a row.
    pub times: u32,
    /// The call that was made last.
    #[serde(default)]
    pub call: Option<ToolCallId>,
    /// A hash of what it answered.
    #[serde(default)]
    pub answer: Option<u64>,
}

/// An agent that takes no further part in the run, because its own budget is used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverBudget {
    /// The agent.
    pub agent_id: String,
    /// Which part of the budget, as a stable word such as `agent_budget_tokens`.
    pub reason: String,
    /// The same for people.
    pub detail: String,
}

/// The state of a run's rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunCore {
    /// What is fixed.
    pub rules: Rules,
    /// What it is doing.
    pub phase: Phase,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Model calls begun.
    pub step: u32,
    /// Model and tool calls of the current workflow segment.
    pub segment_steps: u32,
    /// Whose turn it is.
    pub turn: Option<Turn>,
    /// Who spoke last.
    pub last_speaker: Option<String>,
    /// Turns begun, by agent.
    pub turns_by_agent: BTreeMap<String, u32>,
    /// Model calls answered, by agent.
    pub steps_by_agent: BTreeMap<String, u32>,
    /// Tokens and money by agent, those of its lanes included.
    #[serde(default)]
    pub used_by_agent: BTreeMap<String, Usage>,
    /// Milliseconds that turns were active, by agent; without those that they waited for a person.
    #[serde(default)]
    pub active_ms_by_agent: BTreeMap<String, u64>,
    /// Agents whose budget ended their part, in the order in which it did.
    #[serde(default)]
    pub over_budget: Vec<OverBudget>,
    /// Who speaks next, in order.
    pub queue: VecDeque<String>,
    /// The message that was begun and is not complete.
    pub open: Option<OpenMessage>,
    /// Messages that wait to join.
    pub steers: Vec<Steer>,
    /// Agents whose context must be summarised before they speak again.
    pub compact: BTreeSet<String>,
    /// The last call.
    pub repeat: Option<Repeat>,
    /// Failed tries of the model call under way, in a row.
    pub failures: u32,
    /// Of those, answers that broke off.
    pub broken: u32,
    /// What it used.
    pub usage: Usage,
    /// What its lanes used, which are runs of their own.
    pub lane_usage: Usage,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// Since when it waits for a person.
    pub waiting_since: Option<Timestamp>,
    /// The decision it waits for. Other calls of the step may wait for theirs; those are asked for one after the other.
    #[serde(default)]
    pub waiting_for: Option<ApprovalId>,
    /// Milliseconds it waited for persons before.
    pub waited_ms: u64,
}

impl RunCore {
    /// A run that was not begun.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            phase: Phase::New,
            outcome: None,
            step: 0,
            segment_steps: 0,
            turn: None,
            last_speaker: None,
            turns_by_agent: BTreeMap::new(),
            steps_by_agent: BTreeMap::new(),
            used_by_agent: BTreeMap::new(),
            active_ms_by_agent: BTreeMap::new(),
            over_budget: Vec::new(),
            queue: VecDeque::new(),
            open: None,
            steers: Vec::new(),
            compact: BTreeSet::new(),
            repeat: None,
            failures: 0,
            broken: 0,
            usage: Usage::default(),
            lane_usage: Usage::default(),
            started_at: None,
            waiting_since: None,
            waiting_for: None,
            waited_ms: 0,
        }
    }

    /// The calls of the step under way.
    pub fn acting(&self) -> &[ActingCall] {
        match &self.phase {
            Phase::Acting { calls, .. } => calls,
            _ => &[],
        }
    }

    /// The same state with the clock of another: what has changed beside the time that passed.
    #[must_use]
    pub fn with_clock_of(mut self, other: &Self) -> Self {
        self.usage.active_ms = other.usage.active_ms;
        self.active_ms_by_agent.clone_from(&other.active_ms_by_agent);
        self
    }

    pub(in crate::conversation) fn seat(&self, agent_id: &str) -> Option<&Seat> {
        self.rules.seats.iter().find(|seat| seat.agent_id == agent_id)
    }
}
