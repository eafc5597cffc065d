//! The rules of a run, pure: [`advance`] takes the state and what happened, and answers the new state, what to record
//! and tell (in order), and what to do next. Whoever drives it stores all of that in one transaction and then does the
//! next thing; repeating a step after a crash finds the stored state and goes on from there.

mod failing;
mod state;
mod transition;

use std::collections::VecDeque;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::conversation::derived;
use crate::conversation::records::{ApprovalStatus, CallStatus, Mode, Outcome, OutcomeKind};
use crate::conversation::usage::Usage;
use crate::event::{EventType, NewEvent};
use crate::ids::{RunId, ToolCallId};
use crate::limits;

pub use state::{
    ActingCall, Call, OpenMessage, OverBudget, Phase, Purpose, Repeat, Rules, RunCore, Seat, Steer, Turn,
};
pub use transition::{CallFailure, CallSeen, Effect, Input, Next, Transition};

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
            (_, Input::Waiting { approval }) => {
                self.core.waiting_since.get_or_insert(self.now);
                self.core.waiting_for = Some(approval);
                Next::Nothing
            }
            (_, Input::Resumed { approval }) => {
                if self.core.waiting_for.as_ref().is_none_or(|awaited| *awaited == approval) {
                    self.stop_waiting();
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

    fn stop_waiting(&mut self) {
        self.core.waiting_for = None;
        if let Some(since) = self.core.waiting_since.take() {
            self.core.waited_ms += millis_between(since, self.now);
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
        self.note_progress(seen);
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

    /// A look that saw something else than the one before it is no repetition.
    fn note_progress(&mut self, seen: &[CallSeen]) {
        let Some(repeat) = &mut self.core.repeat else { return };
        let last = seen.iter().find(|seen| repeat.call.as_ref() == Some(&seen.tool_call_id));
        let Some(saw) = last.and_then(|seen| seen.saw) else { return };
        if repeat.answer.replace(saw).is_some_and(|before| before != saw) {
            repeat.times = 1;
        }
    }

    fn place_steers(&mut self) {
        if !self.core.steers.is_empty() {
            let placed = self.core.steers.drain(..).map(|steer| steer.message_id).collect();
            self.effects.push(Effect::PlaceSteers(placed));
        }
    }

    /// What was said so far in a message that nobody will finish stays.
    pub(in crate::conversation) fn close_message(&mut self) {
        self.effects.extend(self.core.open.take().map(Effect::CloseMessage));
    }

    /// Ends the run. Whatever is open is closed first, so that `run.finished` is its last event.
    pub(super) fn end(&mut self, kind: OutcomeKind, reason: Option<&str>, detail: Option<String>) -> Next {
        let open: Vec<ToolCallId> = self.core.acting().iter().map(|call| call.tool_call_id.clone()).collect();
        if !open.is_empty() {
            self.effects.push(Effect::CancelCalls(open));
        }
        self.close_message();
        self.place_steers();
        self.stop_waiting();
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
