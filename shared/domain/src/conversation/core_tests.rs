//! The rules, case by case, and the invariants of the module's documentation under any order of inputs.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::answer::{Answer, ToolFacts, WantedCall};
use super::core::*;
use super::*;
use crate::Timestamp;
use crate::agent::ApprovalPolicy;
use crate::event::EventType;
use crate::ids::{ApprovalId, MessageId, PrefixedId, RunId, ToolCallId};

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn run_id() -> RunId {
    RunId::from_parts(1_800_000_000_000, 77)
}

fn rules(mode: Mode, agents: &[&str]) -> Rules {
    let seat = |agent: &&str| Seat {
        agent_id: (*agent).to_owned(),
        max_turns: None,
        may_talk_to: None,
        budget: Budget::default(),
    };
    Rules {
        mode,
        seats: agents.iter().map(seat).collect(),
        max_turns: 25,
        budget: Budget::default(),
        spent: Usage::default(),
    }
}

fn facts(policy: ApprovalPolicy) -> ToolFacts {
    ToolFacts { read_only: false, needs_vm: false, policy }
}

fn says(text: &str) -> Answer {
    Answer {
        text: text.to_owned(),
        vm_line: Some(facts(ApprovalPolicy::Auto)),
        refused: false,
        usage: Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() },
        ..Answer::refusal(String::new())
    }
}

fn wants(name: &str, arguments: Value) -> WantedCall {
    let (name, arguments) = (name.to_owned(), Ok(arguments));
    WantedCall { provider_id: "p".to_owned(), name, arguments, facts: Some(facts(ApprovalPolicy::Auto)) }
}

/// Drives the rules as the workflow would, and keeps the books that the invariants are checked on.
struct Driver {
    core: RunCore,
    now: i64,
    events: Vec<crate::event::NewEvent>,
    calls: BTreeMap<ToolCallId, (CallStatus, Option<ApprovalId>)>,
    approvals: BTreeMap<ApprovalId, ApprovalStatus>,
    placed: Vec<String>,
    notes: Vec<String>,
    steered: Vec<MessageId>,
    placed_steers: Vec<MessageId>,
    /// Lanes that ended, and how often their work was merged.
    lanes_ended: BTreeSet<u32>,
    merged: u32,
    /// Every call that was planned, in order: who, what, with what.
    planned: Vec<(String, String, Value)>,
    /// Summaries that were stored; `None` is one made without a model.
    summaries: Vec<Option<String>>,
    /// What the calls of the step answer to those who look.
    saw: Option<u64>,
    last_call: Option<Call>,
    last: Next,
}

impl Driver {
    fn new(rules: Rules) -> Self {
        Self {
            core: RunCore::new(rules),
            now: 0,
            events: Vec::new(),
            calls: BTreeMap::new(),
            approvals: BTreeMap::new(),
            placed: Vec::new(),
            notes: Vec::new(),
            steered: Vec::new(),
            placed_steers: Vec::new(),
            lanes_ended: BTreeSet::new(),
            merged: 0,
            planned: Vec::new(),
            summaries: Vec::new(),
            saw: None,
            last_call: None,
            last: Next::Nothing,
        }
    }

    fn begun(mode: Mode, agents: &[&str]) -> Self {
        let mut driver = Self::new(rules(mode, agents));
        driver.input(Input::Begin { mentions: Vec::new() });
        driver
    }

    fn input(&mut self, input: Input) -> Next {
        self.now += 1;
        let ended_before = self.core.outcome.is_some();
        let transition = advance(&self.core, &run_id(), input.clone(), at(self.now));
        let again = advance(&self.core, &run_id(), input, at(self.now));
        assert_eq!(transition, again, "the rules are pure");
        if ended_before {
            assert!(transition.effects.is_empty(), "something after the end");
            assert!(matches!(transition.next, Next::Finish | Next::Nothing));
        }
        self.core = transition.core;
        for effect in transition.effects {
            self.record(effect);
        }
        if let Next::Call(call) = &transition.next {
            self.check_call(call);
            let mut used = self.core.rules.spent;
            used.add(&self.core.usage);
            used.add(&self.core.lane_usage);
            assert_eq!(self.core.rules.budget.reached_by(&used), None, "a call over the budget");
            self.check_budget_of(&call.agent_id);
            assert!(self.core.usage.turns <= self.core.rules.max_turns);
            assert!(self.core.steers.is_empty(), "a call that does not read what was sent");
        }
        if let Next::Act { calls, .. } = &transition.next {
            for call in calls {
                let (status, approval) = &self.calls[call];
                assert!(!status.is_final());
                if let Some(approval) = approval.as_ref().filter(|_| *status == CallStatus::Planned) {
                    assert_eq!(self.approvals[approval], ApprovalStatus::Approved);
                }
            }
        }
        self.last = transition.next.clone();
        transition.next
    }

    /// Steps count 1, 2, 3 ..., tries of one step go up, nobody speaks in another's message, and nobody of a parallel run
    /// speaks before its lanes are merged.
    fn check_call(&mut self, call: &Call) {
        let began = |event: &&crate::event::NewEvent| {
            event.kind == EventType::MessageCreated && event.data["message_id"] == call.message_id.as_str()
        };
        if call.purpose == Purpose::Speak {
            let began = self.events.iter().find(began).expect("a message that has begun");
            assert_eq!(began.agent_id.as_deref(), Some(call.agent_id.as_str()), "another agent's message");
        }
        match self.last_call.replace(call.clone()) {
            None => assert_eq!(call.step, 1),
            Some(last) if last.step == call.step => {
                assert!(call.attempt > last.attempt && call.message_id == last.message_id);
            }
            Some(last) => assert_eq!(call.step, last.step + 1),
        }
        if self.core.rules.mode == Mode::Parallel {
            assert_eq!((self.lanes_ended.len(), self.merged), (self.core.rules.seats.len(), 1));
        }
    }

    /// Nobody is called once their own budget is used up.
    fn check_budget_of(&self, agent_id: &str) {
        let seat = self.core.rules.seats.iter().find(|seat| seat.agent_id == agent_id).unwrap();
        let used = self.core.used_by_agent.get(agent_id).copied().unwrap_or_default();
        let active_ms = self.core.active_ms_by_agent.get(agent_id).copied().unwrap_or(0);
        let used = Usage { active_ms, ..used };
        assert_eq!(seat.budget.reached_by(&used), None, "a call of {agent_id} over its budget");
    }

    /// A lane's end, told as often as one likes.
    fn end_lane(&mut self, index: u32) {
        let first = self.lanes_ended.insert(index);
        let before = self.core.lane_usage.model_calls;
        let usage = Usage { model_calls: 1, input_tokens: 3, ..Usage::default() };
        self.input(Input::LaneEnded { index, usage });
        let counts = first && self.core.outcome.is_none();
        assert_eq!(self.core.lane_usage.model_calls, before + u32::from(counts), "a lane is counted once");
    }

    fn merge(&mut self, conflicts: bool) {
        let ready = matches!(&self.core.phase, Phase::Lanes { open } if open.is_empty());
        let next = self.input(Input::Merged { conflicts });
        assert_eq!(next == Next::Think, ready, "merged when all lanes have ended, and once");
        self.merged += u32::from(ready);
    }

    fn record(&mut self, effect: Effect) {
        match effect {
            Effect::Tell(event) => self.events.push(event),
            Effect::PlanCalls(planned) => {
                assert!(planned.len() <= crate::limits::TOOL_CALLS_PER_STEP);
                for call in planned {
                    self.planned.push((call.agent_id, call.name, call.arguments));
                    let status =
                        if call.rejected.is_some() { CallStatus::Failed } else { CallStatus::Planned };
                    if let Some(approval) = &call.approval_id {
                        self.approvals.insert(approval.clone(), ApprovalStatus::Pending);
                    }
                    let known = self.calls.insert(call.tool_call_id, (status, call.approval_id));
                    assert!(known.is_none(), "a call planned twice");
                }
            }
            Effect::RejectCalls(rejected) => {
                for (call, _) in rejected {
                    self.calls.get_mut(&call).unwrap().0 = CallStatus::Failed;
                }
            }
            Effect::CancelCalls(calls) => {
                for call in calls {
                    let call = self.calls.get_mut(&call).unwrap();
                    if !call.0.is_final() {
                        call.0 = CallStatus::Cancelled;
                    }
                }
            }
            Effect::PlaceSteers(ids) => self.placed_steers.extend(ids),
            Effect::PlaceAnswer(answer) => self.placed.push(answer.message_id.to_string()),
            Effect::CloseMessage(open) => self.placed.push(open.message_id.to_string()),
            Effect::PlaceResults { calls, .. } => {
                assert!(calls.iter().all(|call| self.calls[call].0.is_final()));
            }
            Effect::PlaceNote { message_id, text } => {
                self.placed.push(message_id.to_string());
                self.notes.push(text);
            }
            Effect::StoreSummary { agent_id, summary } => {
                assert!(!self.core.compact.contains(&agent_id), "a summary that is made again at once");
                self.summaries.push(summary);
            }
            Effect::RecordStep { .. } => {}
        }
    }

    fn proceed(&mut self) -> Next {
        let calls = self.core.acting().iter().map(|call| {
            let (status, approval) = &self.calls[&call.tool_call_id];
            let approval = approval.as_ref().map(|id| self.approvals[id]);
            CallSeen {
                tool_call_id: call.tool_call_id.clone(),
                status: *status,
                approval,
                polls: 0,
                saw: self.saw,
                cost: Usage::default(),
            }
        });
        let calls = calls.collect();
        self.input(Input::Proceed { calls, vm_ready: true })
    }

    fn wait(&mut self, approval: u128) {
        self.input(Input::Waiting { approval: ApprovalId::from_parts(0, approval) });
    }

    fn resume(&mut self, approval: u128) {
        self.input(Input::Resumed { approval: ApprovalId::from_parts(0, approval) });
    }

    /// Proceeds to the next model call and answers it.
    fn answer(&mut self, answer: Answer) -> Next {
        let Next::Call(call) = self.proceed() else { panic!("no call but {:?}", self.last) };
        self.input(Input::Answered { step: call.step, attempt: call.attempt, answer })
    }

    /// The workflow waits for the decision that it was told to wait for.
    fn ask(&mut self) {
        let Next::Approve(approval) = self.last.clone() else { return };
        if self.core.outcome.is_none() && self.approvals[&approval] == ApprovalStatus::Pending {
            self.input(Input::Waiting { approval });
        }
    }

    /// A person decides on any of the calls that wait, not only on the one that the run waits for.
    fn decide(&mut self, which: u8) {
        let open = |status: &ApprovalStatus| *status == ApprovalStatus::Pending;
        let pending: Vec<ApprovalId> =
            self.approvals.iter().filter(|(_, status)| open(status)).map(|(id, _)| id.clone()).collect();
        let Some(approval) = pending.get(usize::from(which / 3) % pending.len().max(1)).cloned() else {
            return;
        };
        let decisions = [ApprovalStatus::Approved, ApprovalStatus::Denied, ApprovalStatus::Expired];
        self.approvals.insert(approval.clone(), decisions[usize::from(which % 3)]);
        self.input(Input::Resumed { approval });
    }

    fn finish_calls(&mut self) {
        for (status, _) in self.calls.values_mut() {
            if !status.is_final() {
                *status = CallStatus::Done;
            }
        }
    }

    fn speaker(&self) -> &str {
        self.core.turn.as_ref().map_or("nobody", |turn| &turn.agent_id)
    }

    fn outcome(&self) -> (OutcomeKind, Option<&str>) {
        let outcome = self.core.outcome.as_ref().expect("the run has ended");
        (outcome.kind, outcome.reason.as_deref())
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.events.iter().map(|event| event.kind.as_str()).collect()
    }

    /// Checks what must hold at any moment.
    fn check(&self) {
        let mut open: BTreeMap<&str, u64> = BTreeMap::new();
        let mut completed = BTreeSet::new();
        for event in &self.events {
            let id = event.data["message_id"].as_str().unwrap_or_default();
            match event.kind {
                EventType::MessageCreated => assert!(open.insert(id, 1).is_none() && !completed.contains(id)),
                EventType::MessageReset => {
                    let attempt = open.get_mut(id).expect("a reset of a message that is open");
                    *attempt += 1;
                    assert_eq!(event.data["attempt"].as_u64(), Some(*attempt));
                }
                EventType::MessageCompleted => {
                    assert!(open.remove(id).is_some() && completed.insert(id));
                }
                _ => {}
            }
        }
        // Messages are completed by their event, or closed by the effect that the application tells of.
        let closed = open.keys().filter(|id| self.placed.iter().any(|placed| placed == *id)).count();
        if self.core.outcome.is_some() {
            assert_eq!(closed, open.len(), "a message left open");
            assert!(self.core.steers.is_empty());
            assert_eq!(self.placed_steers, self.steered, "every message placed once, in order");
            assert_eq!(self.events.last().map(|event| event.kind), Some(EventType::RunFinished));
            assert!(self.calls.values().all(|(status, _)| status.is_final()));
        } else {
            assert!(open.len() - closed <= 1, "two agents speak at once");
        }
        let repeated = self.planned.windows(3).any(|three| three[0] == three[1] && three[1] == three[2]);
        assert!(!repeated || self.saw.is_some() || self.core.outcome.is_some(), "three times the same call");
        // Whoever waits for a decision waits for one that was not made.
        if let Some(awaited) = &self.core.waiting_for {
            assert!(self.core.waiting_since.is_some());
            let status = self.approvals.get(awaited);
            assert!(status.is_none_or(|status| *status == ApprovalStatus::Pending), "{status:?}");
        }
        let ends = self.events.iter().filter(|event| event.kind == EventType::RunFinished).count();
        assert_eq!(ends, usize::from(self.core.outcome.is_some()));
        let mut placed = self.placed.clone();
        placed.sort();
        placed.dedup();
        assert_eq!(placed.len(), self.placed.len(), "a message placed twice");
    }
}

#[test]
fn round_robin_gives_each_agent_one_turn_and_more_only_when_mentioned() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev", "design"]);
    run.answer(says("Done. @design, @dev and @nobody, go on."));
    assert_eq!(run.answer(says("Nice. @dev, one thing.")), Next::Think);
    run.answer(says("Fixed."));
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Completed, None));
    assert_eq!(run.core.turns_by_agent, BTreeMap::from([("dev".into(), 2), ("design".into(), 1)]));
    run.check();
}

#[test]
fn an_agent_hands_over_only_to_whom_it_may() {
    let mut rules = rules(Mode::Mention, &["dev", "design", "boss"]);
    rules.seats[0].may_talk_to = Some(vec!["design".to_owned()]);
    let mut run = Driver::new(rules);
    run.input(Input::Begin { mentions: Vec::new() });
    run.answer(says("@boss @design look"));
    run.proceed();
    assert_eq!(run.speaker(), "design");
    assert!(run.core.queue.is_empty());
}

#[test]
fn a_moderator_speaks_again_after_each_and_ends_by_mentioning_nobody() {
    let mut run = Driver::begun(Mode::Moderator, &["boss", "dev"]);
    run.answer(says("@dev please"));
    run.answer(says("done"));
    run.answer(says("thanks"));
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.core.turns_by_agent["boss"], 2);
}

#[test]
fn a_turn_goes_on_after_its_tools() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev", "design"]);
    let mut answer = says("/vm ls");
    answer.calls.push(wants("look", json!({"a": 1})));
    run.answer(answer);
    let Next::Act { calls, parallel } = run.proceed() else { panic!("{:?}", run.last) };
    assert_eq!((calls.len(), parallel), (2, false));
    assert_eq!(run.proceed(), Next::Act { calls, parallel: false }, "asking again changes nothing");
    run.finish_calls();
    let Next::Call(call) = run.proceed() else { panic!("{:?}", run.last) };
    assert_eq!((call.agent_id.as_str(), call.step, call.attempt), ("dev", 2, 1));
    assert_eq!(run.core.usage.turns, 1);
    run.check();
}

#[test]
fn what_cannot_run_becomes_a_result_and_the_agent_goes_on() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let mut answer = says("");
    answer.calls.push(WantedCall { facts: None, ..wants("nonsense", json!({})) });
    answer.calls.push(WantedCall { arguments: Err("{\"a\": ".to_owned()), ..wants("look", json!({})) });
    answer.calls.push(wants("look", json!([1])));
    answer.calls.push(WantedCall { facts: Some(facts(ApprovalPolicy::Deny)), ..wants("change", json!({})) });
    run.answer(answer);
    assert!(run.calls.values().all(|(status, _)| *status == CallStatus::Failed));
    assert!(matches!(run.proceed(), Next::Call(_)));
    run.check();
}

#[test]
fn a_refused_call_says_what_to_do_and_keeps_nothing_of_a_hundred_megabytes() {
    let garbage = "\u{0}\u{1b}[2J\u{202e}fly";
    for (call, part) in [
        (wants("write_file", json!({"content": "x".repeat(100 << 20)})), "Write large files in parts"),
        (WantedCall { facts: None, ..wants(garbage, json!({})) }, "there is no tool"),
        (
            WantedCall { arguments: Err("EOF at 7".to_owned()), ..wants("look", json!({})) },
            "EOF at 7. Send them",
        ),
        (wants("look", json!(garbage)), "must be a JSON object"),
        (WantedCall { facts: Some(facts(ApprovalPolicy::Deny)), ..wants("look", json!({})) }, "forbids it"),
    ] {
        let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
        let Next::Call(of) = run.proceed() else { panic!() };
        let answer = Answer { calls: vec![call], ..says("") };
        let input = Input::Answered { step: of.step, attempt: of.attempt, answer };
        let effects = advance(&run.core, &run_id(), input, at(9)).effects;
        let planned = effects.iter().find_map(|effect| match effect {
            Effect::PlanCalls(planned) => planned.first(),
            _ => None,
        });
        let planned = planned.unwrap();
        assert!(planned.rejected.as_ref().is_some_and(|why| why.contains(part)), "{:?}", planned.rejected);
        assert!(planned.arguments.to_string().len() < 1024 && planned.name.len() < 64, "{planned:?}");
        assert!(!planned.name.contains('\u{1b}'));
    }
}

#[test]
fn of_ten_thousand_calls_ten_are_taken() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let mut answer = says("");
    answer.calls = (0..10_000).map(|n| wants("look", json!({"n": n}))).collect();
    run.answer(answer);
    assert_eq!(run.calls.len(), 10);
    run.check();
}

#[test]
fn the_same_call_three_times_in_a_row_stops_the_run() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    for times in 1..=3 {
        let mut answer = says("Again.");
        answer.calls.push(wants("look", json!({"a": 1})));
        run.answer(answer);
        if times < 3 {
            run.proceed();
            run.finish_calls();
        }
    }
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("repeated_call")));
    run.check();
}

#[test]
fn a_call_waits_for_its_approval_and_a_denied_one_is_not_run() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let mut answer = says("");
    for n in 0..2 {
        let ask = WantedCall { facts: Some(facts(ApprovalPolicy::Ask)), ..wants("change", json!({"n": n})) };
        answer.calls.push(ask);
    }
    run.answer(answer);
    let Next::Approve(first) = run.proceed() else { panic!("{:?}", run.last) };
    assert_eq!(run.proceed(), Next::Approve(first.clone()));
    run.approvals.insert(first, ApprovalStatus::Approved);
    let Next::Approve(second) = run.proceed() else { panic!("{:?}", run.last) };
    run.approvals.insert(second, ApprovalStatus::Denied);
    let Next::Act { calls, .. } = run.proceed() else { panic!("{:?}", run.last) };
    assert_eq!(calls.len(), 1);
    run.check();
}

#[test]
fn a_crashed_call_is_made_again_and_its_late_answer_ignored() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let Next::Call(first) = run.proceed() else { panic!() };
    let Next::Call(second) = run.proceed() else { panic!() };
    assert_eq!((second.step, second.attempt, &second.message_id), (first.step, 2, &first.message_id));
    let late = Input::Answered { step: first.step, attempt: 1, answer: says("late") };
    assert_eq!(run.input(late), Next::Nothing);
    run.input(Input::Answered { step: second.step, attempt: 2, answer: says("in time") });
    assert_eq!(
        run.kinds(),
        ["run.started", "turn.started", "message.created", "message.reset", "message.completed"]
    );
    run.check();
}

#[test]
fn a_busy_provider_is_waited_for_and_then_given_up() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let busy = |retry_after_secs| CallFailure::Busy { retry_after_secs };
    let fail = |run: &mut Driver, failure| {
        let Next::Call(call) = run.proceed() else { panic!("{:?}", run.last) };
        run.input(Input::CallFailed { step: call.step, attempt: call.attempt, failure })
    };
    assert_eq!(fail(&mut run, busy(Some(42))), Next::Wait { secs: 42 });
    assert_eq!(fail(&mut run, busy(None)), Next::Wait { secs: 4 });
    for _ in 3..MODEL_TRIES {
        assert!(matches!(fail(&mut run, busy(None)), Next::Wait { .. }));
    }
    assert_eq!(fail(&mut run, busy(None)), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Failed, Some("model_overloaded")));
    run.check();
}

#[test]
fn an_overflowing_context_is_summarised_once_and_the_message_goes_on() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let Next::Call(call) = run.proceed() else { panic!() };
    let overflow = |call: &Call| {
        let failure = CallFailure::ContextOverflow;
        Input::CallFailed { step: call.step, attempt: call.attempt, failure }
    };
    assert_eq!(run.input(overflow(&call)), Next::Think);
    let Next::Call(summary) = run.proceed() else { panic!() };
    assert_eq!(summary.purpose, Purpose::Summarise);
    run.input(Input::Answered { step: summary.step, attempt: summary.attempt, answer: says("notes") });
    let Next::Call(again) = run.proceed() else { panic!() };
    assert_eq!((again.purpose, &again.message_id), (Purpose::Speak, &call.message_id));
    assert_eq!(again.attempt, 2);
    assert_eq!(run.input(overflow(&again)), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Failed, Some("context_overflow")));
    run.check();
}

/// The summary takes the last of the agent's budget, with a message of its own still open.
#[test]
fn who_speaks_after_an_agent_that_ran_out_begins_a_message_of_its_own() {
    let mut rules = rules(Mode::RoundRobin, &["dev", "design"]);
    rules.seats[0].budget.tokens = Some(12);
    let mut run = Driver::new(rules);
    run.input(Input::Begin { mentions: Vec::new() });
    let Next::Call(call) = run.proceed() else { panic!() };
    let failure = CallFailure::ContextOverflow;
    run.input(Input::CallFailed { step: call.step, attempt: call.attempt, failure });
    let Next::Call(summary) = run.proceed() else { panic!() };
    run.input(Input::Answered { step: summary.step, attempt: summary.attempt, answer: says("notes") });
    let Next::Call(next) = run.proceed() else { panic!() };
    assert_eq!((next.agent_id.as_str(), next.attempt), ("design", 1));
    assert_ne!(next.message_id, call.message_id);
    assert!(run.placed.contains(&call.message_id.to_string()), "what was begun is closed");
    run.check();
}

#[test]
fn limits_stop_the_run_before_the_next_call() {
    let mut few = rules(Mode::Mention, &["dev", "design"]);
    few.max_turns = 2;
    let mut run = Driver::new(few);
    run.input(Input::Begin { mentions: Vec::new() });
    run.answer(says("@design"));
    run.answer(says("@dev"));
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("max_turns")));

    let mut tight = rules(Mode::RoundRobin, &["dev", "design"]);
    tight.budget.tokens = Some(20);
    tight.spent.input_tokens = 6;
    let mut run = Driver::new(tight);
    run.input(Input::Begin { mentions: Vec::new() });
    run.answer(says("one call is fifteen tokens"));
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("budget_tokens")));
    assert!(!run.kinds().contains(&"turn.started") || run.core.usage.turns == 1);
}

/// Each model call of [`says`] is fifteen tokens.
fn with_budget_of_dev(mode: Mode, budget: Budget) -> Driver {
    let mut rules = rules(mode, &["dev", "design"]);
    rules.seats[0].budget = budget;
    let mut run = Driver::new(rules);
    run.input(Input::Begin { mentions: Vec::new() });
    run
}

#[test]
fn an_agents_budget_ends_its_part_and_the_others_go_on() {
    let budget = Budget { tokens: Some(20), ..Budget::default() };
    let mut run = with_budget_of_dev(Mode::RoundRobin, budget);
    run.answer(says("/vm one"));
    run.proceed();
    run.finish_calls();
    // Fifteen of twenty: the next call is still made, and crosses it.
    run.answer(says("/vm two"));
    run.proceed();
    run.finish_calls();
    assert!(matches!(run.proceed(), Next::Call(call) if call.agent_id == "design"));
    let call = run.last_call.clone().unwrap();
    run.input(Input::Answered { step: call.step, attempt: 1, answer: says("I go on. @dev, you too.") });
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("agent_budget_tokens")));
    assert_eq!(run.notes.len(), 1, "told once, however often it is kept from speaking: {:?}", run.notes);
    assert!(run.notes[0].contains("dev") && run.notes[0].contains("30 of 20 tokens"), "{:?}", run.notes);
    assert_eq!(run.core.usage.model_calls, 3);
    run.check();
}

#[test]
fn an_agent_that_is_done_within_its_budget_leaves_the_run_complete() {
    let budget = Budget { tokens: Some(15), ..Budget::default() };
    let mut run = with_budget_of_dev(Mode::RoundRobin, budget);
    run.answer(says("Done with the last token."));
    run.answer(says("Fine."));
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Completed, None));
    assert!(run.notes.is_empty());
}

#[test]
fn an_agents_seconds_are_those_of_its_turns_without_waiting_for_a_person() {
    let budget = Budget { seconds: Some(60), ..Budget::default() };
    let mut run = with_budget_of_dev(Mode::Moderator, budget);
    run.answer(says("/vm slow"));
    run.proceed();
    run.wait(1);
    run.now += 5_000;
    run.resume(1);
    run.finish_calls();
    run.answer(says("@design"));
    // The other's time is not the leader's.
    let Next::Call(call) = run.proceed() else { panic!() };
    run.now += 5_000;
    run.input(Input::Answered { step: call.step, attempt: 1, answer: says("Done.") });
    assert!(matches!(run.proceed(), Next::Call(call) if call.agent_id == "dev"));
    // A provider that stays busy takes its minute; the try after it is not made any more.
    let call = run.last_call.clone().unwrap();
    let failure = CallFailure::Busy { retry_after_secs: None };
    run.input(Input::CallFailed { step: call.step, attempt: call.attempt, failure });
    run.now += 60;
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("agent_budget_seconds")));
    assert!(run.core.active_ms_by_agent["design"] >= 5_000_000);
    run.check();
}

#[test]
fn a_message_to_an_agent_without_budget_is_placed_and_the_run_says_why_nobody_answers() {
    let budget = Budget { tokens: Some(5), ..Budget::default() };
    let mut run = with_budget_of_dev(Mode::Mention, budget);
    run.answer(says("Done."));
    let id = MessageId::from_parts(9, 9);
    run.steered.push(id.clone());
    run.input(Input::Steered(Steer { message_id: id.clone(), mentions: vec!["dev".to_owned()] }));
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("agent_budget_tokens")));
    assert_eq!(run.placed_steers, [id]);
    run.check();
}

#[test]
fn what_a_lane_used_counts_against_its_agents_budget() {
    let budget = Budget { tokens: Some(3), ..Budget::default() };
    let mut run = with_budget_of_dev(Mode::Parallel, budget);
    run.end_lane(0);
    run.end_lane(1);
    run.merge(true);
    assert_eq!(run.proceed(), Next::Finish);
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("agent_budget_tokens")));
}

#[test]
fn waiting_for_a_person_costs_no_seconds() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    run.wait(1);
    run.now += 100_000;
    run.resume(1);
    run.proceed();
    assert!(run.core.usage.active_ms < 10_000, "{}", run.core.usage.active_ms);
}

#[test]
fn a_decision_that_the_run_does_not_wait_for_does_not_start_its_clock() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    run.wait(1);
    run.resume(2);
    assert!(run.core.waiting_since.is_some(), "another call of the step was decided on first");
    run.now += 100_000;
    run.resume(1);
    assert_eq!((run.core.waiting_since, &run.core.waiting_for), (None, &None));
    run.proceed();
    assert!(run.core.usage.active_ms < 10_000, "{}", run.core.usage.active_ms);
}

#[test]
fn a_summary_whose_answers_break_off_is_made_without_a_model() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    run.answer(Answer { nearly_full: true, ..says("/vm one") });
    run.proceed();
    run.finish_calls();
    for _ in 0..BROKEN_TRIES {
        let Next::Call(call) = run.proceed() else { panic!("{:?}", run.last) };
        assert_eq!(call.purpose, Purpose::Summarise);
        let failure = CallFailure::Broken { detail: "cut".to_owned() };
        run.input(Input::CallFailed { step: call.step, attempt: call.attempt, failure });
    }
    assert_eq!(run.summaries, [None]);
    assert!(matches!(run.proceed(), Next::Call(call) if call.purpose == Purpose::Speak));
    run.check();
}

/// Looks at something that answers `saw`, and goes on to the next call.
fn look(run: &mut Driver, saw: u64) {
    let mut answer = says("");
    answer.calls.push(WantedCall {
        facts: Some(ToolFacts { read_only: true, ..facts(ApprovalPolicy::Auto) }),
        ..wants("get_command", json!({"command_id": "cmd_1"}))
    });
    run.answer(answer);
    run.proceed();
    run.saw = Some(saw);
    run.finish_calls();
}

#[test]
fn looking_at_what_goes_on_is_no_repetition_until_it_shows_nothing_new() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    for second in 0..10 {
        look(&mut run, second);
    }
    assert_eq!(run.core.outcome, None);
    look(&mut run, 9);
    look(&mut run, 9);
    assert_eq!(run.outcome(), (OutcomeKind::Stopped, Some("repeated_call")));
    run.check();
}

#[test]
fn the_calls_of_one_answer_together_have_a_bound() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let mut answer = says("");
    let large = "x".repeat(crate::limits::MESSAGE_BYTES - 100);
    answer.calls = (0..6).map(|n| wants("write", json!({"n": n, "content": large}))).collect();
    run.answer(answer);
    let run_at_all = run.calls.values().filter(|(status, _)| *status == CallStatus::Planned).count();
    assert_eq!((run.calls.len(), run_at_all), (6, 4));
}

#[test]
fn a_message_that_joins_late_is_still_answered() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev", "design"]);
    run.answer(says("one"));
    run.answer(says("two"));
    let id = MessageId::from_parts(9, 9);
    run.steered.push(id.clone());
    run.input(Input::Steered(Steer { message_id: id.clone(), mentions: vec!["dev".to_owned()] }));
    assert!(matches!(run.proceed(), Next::Call(call) if call.agent_id == "dev"));
    assert_eq!(run.placed_steers, [id]);
}

#[test]
fn a_cancel_closes_everything() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    run.answer(says("/vm sleep 100"));
    run.proceed();
    let cancel = || Input::Cancel { reason: "cancelled", detail: "x".to_owned() };
    assert_eq!(run.input(cancel()), Next::Finish);
    assert_eq!(run.input(cancel()), Next::Nothing);
    assert_eq!(run.proceed(), Next::Finish);
    run.check();

    let mut speaking = Driver::begun(Mode::RoundRobin, &["dev"]);
    speaking.proceed();
    speaking.input(cancel());
    speaking.check();
}

#[test]
fn commands_in_a_fence_that_shows_them_are_told_once() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    let shown = "Do this:\n```\n$ first\n/vm ls\n```";
    run.answer(says(shown));
    assert!(matches!(run.proceed(), Next::Call(call) if call.step == 2));
    run.input(Input::Answered { step: 2, attempt: 1, answer: says(shown) });
    assert_eq!(run.proceed(), Next::Finish);
    run.check();
}

#[test]
fn a_segment_ends_after_its_steps() {
    let mut run = Driver::begun(Mode::RoundRobin, &["dev"]);
    run.core.segment_steps = crate::limits::STEPS_PER_SEGMENT;
    assert_eq!(run.proceed(), Next::NextSegment);
    run.input(Input::Segment);
    assert!(matches!(run.proceed(), Next::Call(_)));
}

#[derive(Debug, Clone)]
enum Move {
    Proceed,
    Answer(u8),
    Fail(u8),
    EndCalls(u8),
    Decide(u8),
    Steer(u8),
    Wait,
    Segment,
    Stale,
    Lane(u8),
    Merge(bool),
    Cancel,
    Break,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        12 => Just(Move::Proceed),
        8 => any::<u8>().prop_map(Move::Answer),
        2 => any::<u8>().prop_map(Move::Fail),
        5 => any::<u8>().prop_map(Move::EndCalls),
        4 => any::<u8>().prop_map(Move::Decide),
        2 => any::<u8>().prop_map(Move::Steer),
        3 => Just(Move::Wait),
        1 => Just(Move::Segment),
        1 => Just(Move::Stale),
        2 => any::<u8>().prop_map(Move::Lane),
        1 => any::<bool>().prop_map(Move::Merge),
        1 => Just(Move::Cancel),
        1 => Just(Move::Break),
    ];
    proptest::collection::vec(one, 1..120)
}

fn some_answer(kind: u8, salt: usize) -> Answer {
    let mut answer = says(match kind % 8 {
        0 => "Done.",
        1 => "@design go on",
        2 => "/vm ls\n/vm echo 'open",
        3 => "",
        4 => "@dev @design both",
        5 => "```\nshown\n/vm ls\n```",
        6 => "/vm cat <<EOF\nx\nEOF",
        _ => "Text.",
    });
    let policy = [ApprovalPolicy::Auto, ApprovalPolicy::Ask, ApprovalPolicy::Deny][usize::from(kind / 8) % 3];
    for n in 0..(kind / 24) % 4 {
        let call = wants("tool", json!({"n": n, "salt": salt % 5}));
        answer.calls.push(WantedCall { facts: (n != 2).then(|| facts(policy)), ..call });
    }
    answer.nearly_full = kind % 16 == 9;
    answer.refused = kind % 32 == 5;
    answer
}

fn play(driver: &mut Driver, step: usize, action: &Move) {
    let calling = match &driver.core.phase {
        Phase::Calling(call) => Some(call.clone()),
        _ => None,
    };
    match action {
        Move::Proceed => drop(driver.proceed()),
        Move::Answer(kind) => {
            if let Some(call) = calling {
                let answer = some_answer(*kind, step);
                driver.input(Input::Answered { step: call.step, attempt: call.attempt, answer });
            }
        }
        Move::Fail(kind) => {
            if let Some(call) = calling {
                let detail = String::new();
                let failure = match kind % 5 {
                    0 => CallFailure::Busy { retry_after_secs: None },
                    1 => CallFailure::Broken { detail },
                    2 => CallFailure::Refused { detail },
                    3 => CallFailure::ContextOverflow,
                    _ => CallFailure::NotConfigured { detail },
                };
                driver.input(Input::CallFailed { step: call.step, attempt: call.attempt, failure });
            }
        }
        Move::EndCalls(which) => {
            let allowed: Vec<ToolCallId> = match &driver.last {
                Next::Act { calls, .. } => calls.clone(),
                _ => Vec::new(),
            };
            let statuses = [CallStatus::Done, CallStatus::Failed, CallStatus::Lost, CallStatus::Started];
            for call in allowed {
                let entry = driver.calls.get_mut(&call).unwrap();
                if !entry.0.is_final() {
                    entry.0 = statuses[usize::from(*which) % 4];
                }
            }
        }
        Move::Decide(which) => driver.decide(*which),
        Move::Steer(whom) => {
            if driver.core.outcome.is_none() {
                let message_id = MessageId::from_parts(5, step as u128);
                driver.steered.push(message_id.clone());
                let mentions = match whom % 3 {
                    0 => Vec::new(),
                    1 => vec!["boss".to_owned()],
                    _ => vec!["dev".to_owned(), "design".to_owned()],
                };
                driver.input(Input::Steered(Steer { message_id, mentions }));
            }
        }
        Move::Wait => driver.ask(),
        Move::Segment => drop(driver.input(Input::Segment)),
        Move::Stale => drop(driver.input(Input::Answered { step: 0, attempt: 9, answer: says("old") })),
        Move::Lane(index) => {
            if driver.core.rules.mode == Mode::Parallel {
                driver.end_lane(u32::from(*index) % 3);
            }
        }
        Move::Merge(conflicts) => driver.merge(*conflicts),
        Move::Cancel if step > 40 => {
            driver.input(Input::Cancel { reason: "cancelled", detail: String::new() });
        }
        Move::Break if step > 60 => {
            driver.input(Input::Fail { reason: "internal", detail: String::new() });
        }
        Move::Cancel | Move::Break => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_whatever_order_the_invariants_hold_and_the_run_ends(
        mode in prop_oneof![
            Just(Mode::RoundRobin), Just(Mode::Mention), Just(Mode::Moderator), Just(Mode::Parallel)
        ],
        max_turns in 1u32..8,
        tokens in prop_oneof![Just(None), (20u64..400).prop_map(Some)],
        own_tokens in prop_oneof![Just(None), (20u64..200).prop_map(Some)],
        own_seconds in prop_oneof![Just(None), (5u64..60).prop_map(Some)],
        moves in moves(),
    ) {
        let mut rules = rules(mode, &["dev", "design", "boss"]);
        rules.max_turns = max_turns;
        rules.budget.tokens = tokens;
        rules.seats[0].budget.tokens = own_tokens;
        rules.seats[1].budget.seconds = own_seconds;
        let mut driver = Driver::new(rules);
        driver.input(Input::Begin { mentions: Vec::new() });
        for (step, action) in moves.iter().enumerate() {
            play(&mut driver, step, action);
            driver.check();
        }
        // From wherever it is, a run with agents that answer comes to its end.
        for step in 0..4_000 {
            match driver.proceed() {
                Next::Finish => break,
                Next::Call(call) => {
                    let answer = says("Fine.");
                    driver.input(Input::Answered { step: call.step, attempt: call.attempt, answer });
                }
                Next::Act { .. } => driver.finish_calls(),
                Next::Approve(id) => drop(driver.approvals.insert(id, ApprovalStatus::Approved)),
                Next::NextSegment => drop(driver.input(Input::Segment)),
                Next::Lanes(open) if open.is_empty() => driver.merge(true),
                Next::Lanes(open) => open.into_iter().for_each(|index| driver.end_lane(index)),
                _ => {}
            }
            prop_assert!(step < 3_999, "no end: {:?}", driver.core);
        }
        driver.check();
    }

    #[test]
    fn no_reply_breaks_the_parser(reply in "(/vm |<<|EOF|'|\"|```|\n|\\\\| |x|-|\\$\\(|\\)|#){0,60}") {
        let found = vm_lines::parse(&reply);
        for line in &found.lines {
            prop_assert!(!line.command.trim().is_empty());
        }
    }
}
