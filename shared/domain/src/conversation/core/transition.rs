//! What comes into the rules and what they answer.

use super::state::{Call, OpenMessage, RunCore, Steer};
use crate::conversation::answer;
use crate::conversation::records::{ApprovalStatus, CallStatus};
use crate::conversation::usage::Usage;
use crate::event::NewEvent;
use crate::ids::{ApprovalId, MessageId, ToolCallId};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The run begins; the user's message mentions these agents.
    Begin {
        /// Agents that the message mentions.
        mentions: Vec<String>,
    },
    /// The workflow asks what to do. Every call of the step under way is told with it.
    Proceed {
        /// How the calls stand.
        calls: Vec<CallSeen>,
        /// Whether the run holds a ready VM.
        vm_ready: bool,
    },
    /// The model answered.
    Answered {
        /// The step that was called for.
        step: u32,
        /// The try.
        attempt: u32,
        /// The answer.
        answer: answer::Answer,
    },
    /// The model call failed.
    CallFailed {
        /// The step that was called for.
        step: u32,
        /// The try.
        attempt: u32,
        /// How.
        failure: CallFailure,
    },
    /// A user's message joins the run.
    Steered(Steer),
    /// The run begins to wait for a person's decision.
    Waiting {
        /// On what.
        approval: ApprovalId,
    },
    /// A person decided, or the time ran out. Only the decision that the run waits for ends its wait.
    Resumed {
        /// On what.
        approval: ApprovalId,
    },
    /// A new workflow segment took over.
    Segment,
    /// A lane ended.
    LaneEnded {
        /// Its place.
        index: u32,
        /// What it used.
        usage: Usage,
    },
    /// The work of all lanes is merged.
    Merged {
        /// Whether two of them changed the same thing, which somebody must look at.
        conflicts: bool,
    },
    /// Somebody cancels the run.
    Cancel {
        /// Why, as a stable word.
        reason: &'static str,
        /// Why, for people.
        detail: String,
    },
    /// A fault ends the run.
    Fail {
        /// Why, as a stable word.
        reason: &'static str,
        /// Why, for people.
        detail: String,
    },
}

/// How a call of the step under way stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallSeen {
    /// The call.
    pub tool_call_id: ToolCallId,
    /// How it stands.
    pub status: CallStatus,
    /// How its approval stands, if it needs one.
    pub approval: Option<ApprovalStatus>,
    /// How often it was looked at.
    pub polls: u32,
    /// A hash of what it answered, where it only looked at something: the same look may be made again and again while it
    /// sees something new.
    pub saw: Option<u64>,
    /// What running it cost beside the model: time of steps, transitions, units of the database.
    pub cost: Usage,
}

/// How a model call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFailure {
    /// Overloaded or rate-limited; the provider said when to come back, or not.
    Busy {
        /// Seconds.
        retry_after_secs: Option<u64>,
    },
    /// The answer broke off or made no sense.
    Broken {
        /// How.
        detail: String,
    },
    /// The provider declined this request.
    Refused {
        /// Its words.
        detail: String,
    },
    /// The context is longer than the window.
    ContextOverflow,
    /// Nothing will change until somebody configures it.
    NotConfigured {
        /// What is missing.
        detail: String,
    },
}

/// Something to record or to tell, in order, all in one transaction with the new state.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Append an event to the conversation's log.
    Tell(NewEvent),
    /// Give these waiting messages their places.
    PlaceSteers(Vec<MessageId>),
    /// Place the answer as a message.
    PlaceAnswer(answer::PlacedAnswer),
    /// Record these calls.
    PlanCalls(Vec<answer::PlannedCall>),
    /// Place a message that tells the results of these `/vm` lines, with `note` about what was not run.
    PlaceResults {
        /// The step.
        step: u32,
        /// The message.
        message_id: MessageId,
        /// The lines' calls, in order.
        calls: Vec<ToolCallId>,
        /// What was not run, and why.
        note: Option<String>,
    },
    /// Place a message of the system.
    PlaceNote {
        /// The message.
        message_id: MessageId,
        /// Its text.
        text: String,
    },
    /// Record that these planned calls are not run, and why.
    RejectCalls(Vec<(ToolCallId, String)>),
    /// Record that these calls are cancelled, where they have not ended.
    CancelCalls(Vec<ToolCallId>),
    /// Place what was written of this message, as cut.
    CloseMessage(OpenMessage),
    /// Store the summary of an agent's older context; `None` means to make one without a model.
    StoreSummary {
        /// The agent.
        agent_id: String,
        /// The summary.
        summary: Option<String>,
    },
    /// Note what a model call used.
    RecordStep {
        /// The step.
        step: u32,
        /// The try that was answered.
        attempt: u32,
        /// What it used.
        usage: Usage,
    },
}

/// What to do after the transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Nothing new: the input was late, or only noted.
    Nothing,
    /// Ask again at once.
    Think,
    /// Call the model.
    Call(Call),
    /// Ask again after some seconds.
    Wait {
        /// Seconds, at least 1.
        secs: u64,
    },
    /// Run these tool calls.
    Act {
        /// The calls.
        calls: Vec<ToolCallId>,
        /// Whether they may run at the same time.
        parallel: bool,
    },
    /// Ask a person.
    Approve(ApprovalId),
    /// Get the VM ready first.
    EnsureVm,
    /// Go on in a new workflow execution.
    NextSegment,
    /// Start the lanes that have not ended, and wait for them.
    Lanes(Vec<u32>),
    /// The run is over.
    Finish,
}

/// The answer of [`advance`](super::advance).
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The new state.
    pub core: RunCore,
    /// What to record and tell.
    pub effects: Vec<Effect>,
    /// What to do after that.
    pub next: Next,
}
