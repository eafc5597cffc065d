//! The rules of a run, pure: [`advance`] takes the state and what happened, and answers the new state, what to record
//! and tell (in order), and what to do next. Whoever drives it stores all of that in one transaction and then does the
//! next thing; repeating a step after a crash finds the stored state and goes on from there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::records::{ApprovalStatus, CallStatus, Mode, Outcome, OutcomeKind};
use super::usage::{Budget, Usage};
use super::{answer, derived};
use crate::event::{EventType, NewEvent};
use crate::ids::{ApprovalId, MessageId, RunId, ToolCallId};
use crate::limits;

/// Failures of one message's model calls in a row before the run fails. With the waits between them this is about eight
/// minutes of an overloaded provider.
pub const MODEL_TRIES: u32 = 10;
/// Answers that break off before the run fails: a provider that cannot finish an answer will not learn to.
pub const BROKEN_TRIES: u32 = 4;
/// Tries of one message's model call in all, crashes of our own included.
pub const ATTEMPTS_MAX: u32 = 25;
/// Model calls of one turn: an agent that is still not done has lost its way.
pub const STEPS_PER_TURN: u32 = 100;
/// The same call by the same agent this many times in a row stops the run.
pub const SAME_CALL_TIMES: u32 = 3;

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

    pub(super) fn seat(&self, agent_id: &str) -> Option<&Seat> {
        self.rules.seats.iter().find(|seat| seat.agent_id == agent_id)
    }
}

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
    /// The run begins to wait for a person.
    Waiting,
    /// The person decided, or the time ran out.
    Resumed,
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

/// The answer of [`advance`].
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// The new state.
    pub core: RunCore,
    /// What to record and tell.
    pub effects: Vec<Effect>,
    /// What to do after that.
    pub next: Next,
}

/// Applies what happened. An input that comes late (of another step or try, or after the end) changes nothing.
pub fn advance(core: &RunCore, run: &RunId, input: Input, now: Timestamp) -> Transition {
    let mut work = Work { core: core.clone(), run, now, effects: Vec::new() };
    work.clock();
    let next = work.apply(input);
    Transition { core: work.core, effects: work.effects, next }
}

/// An advance in the making.
pub(super) struct Work<'a> {
    pub(super) core: RunCore,
    pub(super) run: &'a RunId,
    pub(super) now: Timestamp,
    pub(super) effects: Vec<Effect>,
}

impl Work<'_> {
    fn apply(&mut self, input: Input) -> Next {
        match (&self.core.phase, input) {
            (Phase::Ended, Input::Proceed { .. }) => Next::Finish,
            (Phase::Ended, _) => Next::Nothing,
            (Phase::New, Input::Begin { mentions }) => self.begin(mentions),
            (_, Input::Begin { .. }) => Next::Think,
            (_, Input::Proceed { calls, vm_ready }) => self.proceed(&calls, vm_ready),
            (Phase::Calling(call), Input::Answered { step, attempt, answer })
                if (call.step, call.attempt) == (step, attempt) =>
            {
                let call = call.clone();
                self.answered(call, answer)
            }
            (Phase::Calling(call), Input::CallFailed { step, attempt, failure })
                if (call.step, call.attempt) == (step, attempt) =>
            {
                let call = call.clone();
                self.call_failed(call, failure)
            }
            (_, Input::Answered { .. } | Input::CallFailed { .. }) => Next::Nothing,
            (_, Input::Steered(steer)) => {
                self.core.steers.push(steer);
                Next::Nothing
            }
            (_, Input::Waiting) => {
                self.core.waiting_since.get_or_insert(self.now);
                Next::Nothing
            }
            (_, Input::Resumed) => {
                if let Some(since) = self.core.waiting_since.take() {
                    self.core.waited_ms += millis_between(since, self.now);
                }
                Next::Nothing
            }
            (_, Input::Segment) => {
                self.core.segment_steps = 0;
                Next::Think
            }
            (Phase::Lanes { .. }, Input::LaneEnded { index, usage }) => self.lane_ended(index, &usage),
            (Phase::Lanes { open }, Input::Merged { conflicts }) if open.is_empty() => self.merged(conflicts),
            (_, Input::LaneEnded { .. } | Input::Merged { .. }) => Next::Nothing,
            (_, Input::Cancel { reason, detail }) => {
                self.end(OutcomeKind::Cancelled, Some(reason), Some(detail))
            }
            (_, Input::Fail { reason, detail }) => self.end(OutcomeKind::Failed, Some(reason), Some(detail)),
        }
    }

    /// Brings the active time up to date.
    fn clock(&mut self) {
        let Some(started) = self.core.started_at.filter(|_| self.core.outcome.is_none()) else { return };
        let waiting = self.core.waiting_since.map_or(0, |since| millis_between(since, self.now));
        let all = millis_between(started, self.now);
        let active = all.saturating_sub(self.core.waited_ms + waiting);
        let passed = active.saturating_sub(self.core.usage.active_ms);
        self.core.usage.active_ms = active;
        if let Some(turn) = self.core.turn.as_ref().filter(|_| passed > 0) {
            *self.core.active_ms_by_agent.entry(turn.agent_id.clone()).or_default() += passed;
        }
    }

    pub(super) fn tell(&mut self, kind: EventType, agent_id: Option<&str>, mut data: Value) {
        if let Some(fields) = data.as_object_mut() {
            fields.insert("run_id".to_owned(), json!(self.run));
        }
        let event = NewEvent { kind, at: self.now, agent_id: agent_id.map(str::to_owned), data };
        self.effects.push(Effect::Tell(event));
    }

    fn begin(&mut self, mentions: Vec<String>) -> Next {
        self.core.started_at = Some(self.now);
        let all: Vec<String> = self.core.rules.seats.iter().map(|seat| seat.agent_id.clone()).collect();
        self.tell(EventType::RunStarted, None, json!({"agent_ids": all, "mode": self.core.rules.mode}));
        self.core.phase = Phase::Deciding;
        self.core.queue = match self.core.rules.mode {
            Mode::RoundRobin => all.into(),
            Mode::Mention if !mentions.is_empty() => mentions.into(),
            Mode::Mention | Mode::Moderator => all.into_iter().take(1).collect(),
            Mode::Parallel => {
                let open = (0..).take(all.len()).collect();
                self.core.phase = Phase::Lanes { open };
                VecDeque::new()
            }
        };
        Next::Think
    }

    fn proceed(&mut self, seen: &[CallSeen], vm_ready: bool) -> Next {
        match self.core.phase.clone() {
            // The workflow asks before the begin was stored: the run was reset by nobody, so begin it.
            Phase::New => self.begin(Vec::new()),
            Phase::Deciding => self.decide(),
            Phase::Calling(call) => self.call_again(call),
            Phase::Acting { step, calls, note } => self.act(step, &calls, note, seen, vm_ready),
            Phase::Lanes { open } => Next::Lanes(open),
            Phase::Ended => Next::Finish,
        }
    }

    fn lane_ended(&mut self, index: u32, usage: &Usage) -> Next {
        let Phase::Lanes { open } = &mut self.core.phase else { return Next::Nothing };
        if open.contains(&index) {
            open.retain(|lane| *lane != index);
            self.core.lane_usage.add(&usage.of_lane());
            let seat = usize::try_from(index).ok().and_then(|at| self.core.rules.seats.get(at));
            if let Some(agent_id) = seat.map(|seat| seat.agent_id.clone()) {
                self.core.used_by_agent.entry(agent_id.clone()).or_default().add(&usage.of_lane());
                *self.core.active_ms_by_agent.entry(agent_id).or_default() += usage.active_ms;
            }
        }
        Next::Nothing
    }

    /// Conflicts are the first agent's to resolve; without any, the run is over unless somebody sent a message.
    fn merged(&mut self, conflicts: bool) -> Next {
        self.core.phase = Phase::Deciding;
        if conflicts {
            let first = self.core.rules.seats.first().map(|seat| seat.agent_id.clone());
            self.core.queue.extend(first);
        }
        Next::Think
    }

    /// Somebody speaks, or the run ends.
    pub(super) fn decide(&mut self) -> Next {
        if self.core.segment_steps >= limits::STEPS_PER_SEGMENT {
            return Next::NextSegment;
        }
        if self.core.turn.is_some() {
            if let Some((reason, detail)) = self.budget_limit() {
                return self.end(OutcomeKind::Stopped, Some(reason), Some(detail));
            }
            self.end_turn_over_budget();
        }
        if self.core.turn.is_none() {
            let Some(agent_id) = self.next_speaker() else {
                return self.nobody_is_left();
            };
            if let Some((reason, detail)) = self.turn_limit() {
                return self.end(OutcomeKind::Stopped, Some(reason), Some(detail));
            }
            // Past the limits, so that a run that is stopped does not tell of a turn that never was.
            if let Some((reason, detail)) = self.budget_limit() {
                return self.end(OutcomeKind::Stopped, Some(reason), Some(detail));
            }
            self.begin_turn(agent_id);
        }
        let Some(turn) = &mut self.core.turn else { return Next::Think };
        if turn.steps >= STEPS_PER_TURN {
            let detail = format!("{} made {STEPS_PER_TURN} model calls in one turn.", turn.agent_id);
            return self.end(OutcomeKind::Stopped, Some("turn_steps"), Some(detail));
        }
        turn.steps += 1;
        let agent_id = turn.agent_id.clone();
        let purpose = if self.core.compact.contains(&agent_id) { Purpose::Summarise } else { Purpose::Speak };
        self.place_steers();
        self.core.step += 1;
        self.core.segment_steps += 1;
        self.core.failures = 0;
        self.core.broken = 0;
        self.start_call(self.core.step, agent_id, purpose)
    }

    /// Begins a model call, or the next try of it.
    fn start_call(&mut self, step: u32, agent_id: String, purpose: Purpose) -> Next {
        let call = if purpose == Purpose::Summarise {
            let message_id = derived::answer_message(self.run, step);
            Call { step, attempt: 1, agent_id, message_id, purpose }
        } else {
            let (message_id, attempt) = match &self.core.open {
                Some(open) => (open.message_id.clone(), open.attempt + 1),
                None => (derived::answer_message(self.run, step), 1),
            };
            let told = json!({"message_id": message_id, "author": "agent", "step": step, "attempt": attempt});
            let kind = if attempt == 1 { EventType::MessageCreated } else { EventType::MessageReset };
            self.tell(kind, Some(&agent_id), told);
            let open = OpenMessage { message_id: message_id.clone(), agent_id: agent_id.clone(), attempt };
            self.core.open = Some(open);
            Call { step, attempt, agent_id, message_id, purpose }
        };
        self.core.phase = Phase::Calling(call.clone());
        Next::Call(call)
    }

    /// The workflow asks while a call is under way: its caller crashed, or waited as it was told. A new try voids the
    /// old one.
    fn call_again(&mut self, call: Call) -> Next {
        if call.attempt >= ATTEMPTS_MAX {
            let detail = format!("The answer of {} could not be got in {ATTEMPTS_MAX} tries.", call.agent_id);
            return self.end(OutcomeKind::Failed, Some("model_unanswered"), Some(detail));
        }
        if let Some((reason, detail)) = self.budget_limit() {
            return self.end(OutcomeKind::Stopped, Some(reason), Some(detail));
        }
        if self.is_over_budget(&call.agent_id) {
            // What it said so far stays, and others take their turns.
            if let Some(message) = self.core.open.take() {
                self.effects.push(Effect::CloseMessage(message));
            }
            self.core.phase = Phase::Deciding;
            return self.decide();
        }
        self.place_steers();
        self.core.segment_steps += 1;
        match call.purpose {
            Purpose::Speak => self.start_call(call.step, call.agent_id, Purpose::Speak),
            Purpose::Summarise => {
                let again = Call { attempt: call.attempt + 1, ..call };
                self.core.phase = Phase::Calling(again.clone());
                Next::Call(again)
            }
        }
    }

    fn call_failed(&mut self, call: Call, failure: CallFailure) -> Next {
        let agent_id = call.agent_id.clone();
        match failure {
            CallFailure::Busy { retry_after_secs } => {
                self.core.failures += 1;
                if self.core.failures >= MODEL_TRIES {
                    let detail =
                        format!("The model of {agent_id} stayed overloaded over {MODEL_TRIES} tries.");
                    return self.end(OutcomeKind::Failed, Some("model_overloaded"), Some(detail));
                }
                let growing = 2u64.saturating_pow(self.core.failures).min(60);
                Next::Wait { secs: retry_after_secs.unwrap_or(growing).clamp(1, 900) }
            }
            CallFailure::Broken { detail } => {
                self.core.failures += 1;
                self.core.broken += 1;
                if self.core.broken >= BROKEN_TRIES {
                    let detail =
                        format!("The answers of {agent_id} broke off {BROKEN_TRIES} times: {detail}");
                    return self.end(OutcomeKind::Failed, Some("model_broken"), Some(detail));
                }
                Next::Wait { secs: 1 }
            }
            CallFailure::ContextOverflow if call.purpose == Purpose::Summarise => {
                self.summarised(&agent_id, None);
                Next::Think
            }
            CallFailure::ContextOverflow => {
                if self.core.turn.as_ref().is_some_and(|turn| turn.compacted) {
                    let detail =
                        format!("What {agent_id} must read does not fit its model, even summarised.");
                    return self.end(OutcomeKind::Failed, Some("context_overflow"), Some(detail));
                }
                self.core.compact.insert(agent_id);
                self.core.phase = Phase::Deciding;
                Next::Think
            }
            CallFailure::Refused { .. } if call.purpose == Purpose::Summarise => {
                self.summarised(&agent_id, None);
                Next::Think
            }
            CallFailure::Refused { detail } => {
                let text = format!("(The model's provider declined this request: {detail})");
                self.answered(call, answer::Answer::refusal(text))
            }
            CallFailure::NotConfigured { detail } => {
                self.end(OutcomeKind::Failed, Some("model_not_configured"), Some(detail))
            }
        }
    }

    /// The agent's older context has its summary.
    pub(super) fn summarised(&mut self, agent_id: &str, summary: Option<String>) {
        self.core.compact.remove(agent_id);
        self.core.phase = Phase::Deciding;
        if let Some(turn) = &mut self.core.turn {
            turn.compacted = true;
        }
        self.effects.push(Effect::StoreSummary { agent_id: agent_id.to_owned(), summary });
    }

    /// Goes on with the calls of a step.
    fn act(
        &mut self,
        step: u32,
        calls: &[ActingCall],
        note: Option<String>,
        seen: &[CallSeen],
        vm_ready: bool,
    ) -> Next {
        let of = |call: &ActingCall| seen.iter().find(|seen| seen.tool_call_id == call.tool_call_id);
        let mut rejected = Vec::new();
        let mut open = Vec::new();
        for call in calls {
            let Some(seen) = of(call) else { continue };
            if seen.status.is_final() {
                continue;
            }
            match (seen.status, seen.approval) {
                (CallStatus::Planned, Some(ApprovalStatus::Pending)) => {
                    let Some(approval) = &call.approval_id else { continue };
                    return Next::Approve(approval.clone());
                }
                (CallStatus::Planned, Some(ApprovalStatus::Denied)) => {
                    rejected.push((call.tool_call_id.clone(), "Not run: a person denied it.".to_owned()));
                }
                (CallStatus::Planned, Some(ApprovalStatus::Expired)) => {
                    let text = "Not run: nobody approved it in time.";
                    rejected.push((call.tool_call_id.clone(), text.to_owned()));
                }
                _ => open.push(call),
            }
        }
        if !rejected.is_empty() {
            self.effects.push(Effect::RejectCalls(rejected));
        }
        if !open.is_empty() {
            if !vm_ready && open.iter().any(|call| call.needs_vm) {
                return Next::EnsureVm;
            }
            let parallel = open.len() > 1 && open.iter().all(|call| call.read_only);
            return Next::Act {
                calls: open.iter().map(|call| call.tool_call_id.clone()).collect(),
                parallel,
            };
        }
        let polls: u32 = seen.iter().map(|seen| seen.polls).sum();
        self.core.segment_steps += polls + calls.len() as u32;
        self.count_calls(seen);
        let lines: Vec<ToolCallId> =
            calls.iter().filter(|call| call.vm_line).map(|call| call.tool_call_id.clone()).collect();
        if !lines.is_empty() || note.is_some() {
            let message_id = derived::results_message(self.run, step);
            self.effects.push(Effect::PlaceResults { step, message_id, calls: lines, note });
        }
        self.core.phase = Phase::Deciding;
        self.decide()
    }

    /// Adds what the calls of a step cost; calls that really ran were items of one Map state.
    fn count_calls(&mut self, seen: &[CallSeen]) {
        let ran: u32 = seen.iter().map(|seen| seen.cost.transitions).sum();
        self.core.usage.transitions += u32::from(ran > 0);
        for seen in seen {
            self.core.usage.add(&seen.cost);
        }
    }

    fn place_steers(&mut self) {
        if !self.core.steers.is_empty() {
            let placed = self.core.steers.drain(..).map(|steer| steer.message_id).collect();
            self.effects.push(Effect::PlaceSteers(placed));
        }
    }

    /// Ends the run. Whatever is open is closed first, so that `run.finished` is its last event.
    pub(super) fn end(&mut self, kind: OutcomeKind, reason: Option<&str>, detail: Option<String>) -> Next {
        let open: Vec<ToolCallId> = self.core.acting().iter().map(|call| call.tool_call_id.clone()).collect();
        if !open.is_empty() {
            self.effects.push(Effect::CancelCalls(open));
        }
        if let Some(message) = self.core.open.take() {
            self.effects.push(Effect::CloseMessage(message));
        }
        self.place_steers();
        if let Some(since) = self.core.waiting_since.take() {
            self.core.waited_ms += millis_between(since, self.now);
        }
        let outcome = Outcome { kind, reason: reason.map(str::to_owned), detail };
        let mut all = self.core.usage;
        all.add(&self.core.lane_usage);
        let told = json!({
            "outcome": outcome.kind,
            "reason": outcome.reason,
            "detail": outcome.detail,
            "usage": all,
        });
        self.tell(EventType::RunFinished, None, told);
        self.core.turn = None;
        self.core.queue.clear();
        self.core.outcome = Some(outcome);
        self.core.phase = Phase::Ended;
        Next::Finish
    }
}

/// Milliseconds from `start` to `end`; 0 where clocks disagree.
fn millis_between(start: Timestamp, end: Timestamp) -> u64 {
    u64::try_from(end.as_millisecond() - start.as_millisecond()).unwrap_or(0)
}
