//! What a model's answer leads to: a message, tool calls, `/vm` lines, or the end of the turn.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::core::{ActingCall, Call, Effect, Next, Phase, Purpose, Repeat, SAME_CALL_TIMES, Work};
use super::records::{CallOrigin, MessageEnd, OutcomeKind};
use super::usage::Usage;
use super::{derived, vm_lines};
use crate::agent::ApprovalPolicy;
use crate::event::EventType;
use crate::ids::{ApprovalId, MessageId, ToolCallId};
use crate::{limits, text};

/// The tool that a `/vm` line runs through, for allow lists and approvals.
pub const VM_LINE_TOOL: &str = "execute_command";

/// What the rules must know of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolFacts {
    /// It changes nothing.
    pub read_only: bool,
    /// It needs the VM.
    pub needs_vm: bool,
    /// What the agent's definition says about this call.
    pub policy: ApprovalPolicy,
}

/// A call that a model wants.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedCall {
    /// The provider's id.
    pub provider_id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, or what is wrong with them.
    pub arguments: Result<Value, String>,
    /// The tool's facts; `None` where there is no such tool for this agent.
    pub facts: Option<ToolFacts>,
}

/// A model's answer, as the rules see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// The calls it wants.
    pub calls: Vec<WantedCall>,
    /// Facts of the tool behind `/vm` lines, by command; `None` where the agent may not use it.
    pub vm_line: Option<ToolFacts>,
    /// Policy for each `/vm` line, where a pattern says otherwise than `vm_line`; in the order of the lines.
    pub vm_line_policies: Vec<ApprovalPolicy>,
    /// It was cut at its longest length.
    pub cut: bool,
    /// The model or its provider declined.
    pub refused: bool,
    /// What the call used.
    pub usage: Usage,
    /// Whether the context is nearly full: the agent's older context is to be summarised.
    pub nearly_full: bool,
}

impl Answer {
    /// An answer that only says why there is none.
    pub fn refusal(text: String) -> Self {
        Self {
            text,
            calls: Vec::new(),
            vm_line: None,
            vm_line_policies: Vec::new(),
            cut: false,
            refused: true,
            usage: Usage::default(),
            nearly_full: false,
        }
    }
}

/// An answer that becomes a message.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedAnswer {
    /// The step.
    pub step: u32,
    /// The message.
    pub message_id: MessageId,
    /// Who wrote it.
    pub agent_id: String,
    /// Its text.
    pub text: String,
    /// The calls it asks for, with the provider's ids.
    pub calls: Vec<(ToolCallId, Option<String>)>,
    /// Calls that were not taken up, in words for the model.
    pub note: Option<String>,
    /// Why it ended.
    pub end: MessageEnd,
}

/// A call to record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedCall {
    /// Its id.
    pub tool_call_id: ToolCallId,
    /// The step.
    pub step: u32,
    /// Who asks.
    pub agent_id: String,
    /// Where it came from.
    pub origin: CallOrigin,
    /// The tool.
    pub name: String,
    /// Its arguments.
    pub arguments: Value,
    /// The approval it needs.
    pub approval_id: Option<ApprovalId>,
    /// Why it is not run, if it is not.
    pub rejected: Option<String>,
}

impl Work<'_> {
    /// The model answered.
    pub(super) fn answered(&mut self, call: Call, answer: Answer) -> Next {
        self.count(&call, &answer);
        if call.purpose == Purpose::Summarise {
            let summary = answer.text.trim();
            let summary = (!summary.is_empty()).then(|| summary.to_owned());
            self.summarised(&call.agent_id, summary);
            return Next::Think;
        }
        self.core.open = None;
        let (said, too_long) = text::as_message(&answer.text);
        // Commands are read from what was said, never from a text whose middle is gone.
        let lines = if too_long { vm_lines::VmLines::default() } else { vm_lines::parse(&said) };
        let wanted = answer.calls.len() + lines.lines.len();
        let mut planned = Vec::new();
        let mut acting = Vec::new();
        self.plan_lines(&call, &lines, &answer, &mut planned, &mut acting);
        self.plan_tools(&call, &answer, &mut planned, &mut acting);
        let note = note(wanted, planned.len(), lines.fenced, too_long);
        let nothing_to_do = planned.is_empty();
        // An agent that fenced its commands is told so, once a turn, and goes on.
        let only_shown = nothing_to_do && lines.fenced > 0 && self.first_fence_of_turn();
        let (results_note, answer_note) =
            if lines.lines.is_empty() && !only_shown { (None, note) } else { (note, None) };
        let stuck = self.is_stuck(&planned);
        if stuck {
            for call in &mut planned {
                call.rejected = Some("Not run: the same call three times in a row.".to_owned());
                call.approval_id = None;
            }
        }
        let end = match () {
            () if answer.refused => MessageEnd::Refused,
            () if !planned.is_empty() => MessageEnd::ToolCalls,
            () if answer.cut || too_long => MessageEnd::MaxTokens,
            () if said.trim().is_empty() => MessageEnd::Empty,
            () => MessageEnd::Complete,
        };
        self.place(&call, said, &planned, &answer.calls, answer_note, end);
        self.core.usage.tool_calls += planned.len() as u32;
        if !nothing_to_do {
            self.effects.push(Effect::PlanCalls(planned));
        }
        if stuck {
            self.core.phase = Phase::Deciding;
            let detail = format!("{} made the same call {SAME_CALL_TIMES} times in a row.", call.agent_id);
            return self.end(OutcomeKind::Stopped, Some("repeated_call"), Some(detail));
        }
        if nothing_to_do && !only_shown {
            self.core.phase = Phase::Deciding;
            self.end_turn(&lines.prose);
        } else {
            self.core.phase = Phase::Acting { step: call.step, calls: acting, note: results_note };
        }
        Next::Think
    }

    fn count(&mut self, call: &Call, answer: &Answer) {
        self.core.failures = 0;
        self.core.broken = 0;
        self.core.usage.model_calls += 1;
        self.core.usage.input_tokens += answer.usage.input_tokens;
        self.core.usage.output_tokens += answer.usage.output_tokens;
        self.core.usage.cache_read_tokens += answer.usage.cache_read_tokens;
        self.core.usage.cost_microusd += answer.usage.cost_microusd;
        self.core.used_by_agent.entry(call.agent_id.clone()).or_default().add(&answer.usage);
        if call.purpose == Purpose::Speak {
            *self.core.steps_by_agent.entry(call.agent_id.clone()).or_default() += 1;
            if answer.nearly_full {
                self.core.compact.insert(call.agent_id.clone());
            }
        }
        let usage = Usage { model_calls: 1, ..answer.usage };
        self.effects.push(Effect::RecordStep { step: call.step, attempt: call.attempt, usage });
    }

    /// `/vm` lines come before the model's own calls: they stand in the text, which comes first.
    fn plan_lines(
        &mut self,
        call: &Call,
        lines: &vm_lines::VmLines,
        answer: &Answer,
        planned: &mut Vec<PlannedCall>,
        acting: &mut Vec<ActingCall>,
    ) {
        for (at, line) in lines.lines.iter().enumerate() {
            if planned.len() == limits::TOOL_CALLS_PER_STEP {
                return;
            }
            let too_long = line.command.len() > limits::COMMAND_BYTES;
            let rejected = match (&line.broken, answer.vm_line) {
                (Some(why), _) => Some(format!("Not run: {why}.")),
                (_, None) => Some("Not run: this agent may not run commands.".to_owned()),
                _ if too_long => Some("Not run: longer than 131,008 bytes; write a file instead.".to_owned()),
                _ => None,
            };
            let facts = answer.vm_line.map(|facts| ToolFacts {
                policy: answer.vm_line_policies.get(at).copied().unwrap_or(facts.policy),
                ..facts
            });
            let shown =
                if too_long { text::head_and_tail(&line.command, 1024).0 } else { line.command.clone() };
            let arguments = json!({"command": shown});
            self.plan(call, CallOrigin::VmLine, VM_LINE_TOOL, arguments, facts, rejected, planned, acting);
        }
    }

    fn plan_tools(
        &mut self,
        call: &Call,
        answer: &Answer,
        planned: &mut Vec<PlannedCall>,
        acting: &mut Vec<ActingCall>,
    ) {
        let mut left = limits::ARGUMENTS_PER_STEP_BYTES;
        for wanted in &answer.calls {
            if planned.len() == limits::TOOL_CALLS_PER_STEP {
                return;
            }
            let (arguments, broken) = match taken_arguments(&wanted.arguments, &mut left) {
                Ok(arguments) => (arguments, None),
                Err(why) => (json!({}), Some(format!("Not run: {why}"))),
            };
            let rejected = match wanted.facts {
                None => Some(format!("Not run: there is no tool {:?} for you.", cut_name(&wanted.name))),
                Some(_) => broken,
            };
            let name = cut_name(&wanted.name);
            self.plan(call, CallOrigin::Tool, &name, arguments, wanted.facts, rejected, planned, acting);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one record, all different in kind")]
    fn plan(
        &mut self,
        call: &Call,
        origin: CallOrigin,
        name: &str,
        arguments: Value,
        facts: Option<ToolFacts>,
        rejected: Option<String>,
        planned: &mut Vec<PlannedCall>,
        acting: &mut Vec<ActingCall>,
    ) {
        let index = planned.len() as u32;
        let tool_call_id = derived::tool_call(self.run, call.step, index);
        let policy = facts.map_or(ApprovalPolicy::Deny, |facts| facts.policy);
        let rejected = rejected.or_else(|| {
            (policy == ApprovalPolicy::Deny).then(|| "Not run: the agent's definition forbids it.".to_owned())
        });
        let asks = rejected.is_none() && policy == ApprovalPolicy::Ask;
        let approval_id = asks.then(|| derived::approval(self.run, call.step, index));
        acting.push(ActingCall {
            tool_call_id: tool_call_id.clone(),
            approval_id: approval_id.clone(),
            needs_vm: rejected.is_none() && facts.is_some_and(|facts| facts.needs_vm),
            read_only: facts.is_some_and(|facts| facts.read_only),
            vm_line: origin == CallOrigin::VmLine,
        });
        planned.push(PlannedCall {
            tool_call_id,
            step: call.step,
            agent_id: call.agent_id.clone(),
            origin,
            name: name.to_owned(),
            arguments,
            approval_id,
            rejected,
        });
    }

    fn place(
        &mut self,
        call: &Call,
        said: String,
        planned: &[PlannedCall],
        wanted: &[WantedCall],
        note: Option<String>,
        end: MessageEnd,
    ) {
        let mut providers = wanted.iter().map(|call| call.provider_id.clone());
        let calls: Vec<(ToolCallId, Option<String>)> = planned
            .iter()
            .map(|call| {
                let provider = if call.origin == CallOrigin::Tool { providers.next() } else { None };
                (call.tool_call_id.clone(), provider)
            })
            .collect();
        let shown: Vec<Value> = planned
            .iter()
            .map(|call| json!({"tool_call_id": call.tool_call_id, "name": call.name, "origin": call.origin}))
            .collect();
        let told = json!({
            "message_id": call.message_id,
            "author": "agent",
            "text": said,
            "end": end,
            "tool_calls": shown,
        });
        self.tell(EventType::MessageCompleted, Some(&call.agent_id), told);
        self.effects.push(Effect::PlaceAnswer(PlacedAnswer {
            step: call.step,
            message_id: call.message_id.clone(),
            agent_id: call.agent_id.clone(),
            text: said,
            calls,
            note,
            end,
        }));
    }

    fn first_fence_of_turn(&mut self) -> bool {
        self.core.turn.as_mut().is_some_and(|turn| !std::mem::replace(&mut turn.told_of_fences, true))
    }

    /// Whether these calls make it the same call for the third time in a row.
    fn is_stuck(&mut self, planned: &[PlannedCall]) -> bool {
        for call in planned {
            let hash = hash(&call.name, &call.arguments);
            let before = self.core.repeat.take();
            let same = before.filter(|before| before.agent_id == call.agent_id && before.hash == hash);
            let (times, answer) = same.map_or((1, None), |same| (same.times + 1, same.answer));
            let (agent_id, id) = (call.agent_id.clone(), Some(call.tool_call_id.clone()));
            self.core.repeat = Some(Repeat { agent_id, hash, times, call: id, answer });
            if times >= SAME_CALL_TIMES {
                return true;
            }
        }
        false
    }
}

/// A call's arguments, which use up what is `left` for all calls of the answer; or what is wrong with them.
fn taken_arguments(wanted: &Result<Value, String>, left: &mut usize) -> Result<Value, String> {
    let arguments =
        wanted.as_ref().map_err(|why| format!("the arguments are not JSON: {why}. Send them again."))?;
    if !arguments.is_object() {
        return Err("the arguments must be a JSON object.".to_owned());
    }
    let size = arguments.to_string().len();
    if size > limits::MESSAGE_BYTES {
        return Err("its arguments have more than 256 KiB. Write large files in parts.".to_owned());
    }
    *left =
        left.checked_sub(size).ok_or("the calls of this answer have more than 1 MiB. Make fewer at once.")?;
    Ok(arguments.clone())
}

/// What the model is told about what was not taken up.
fn note(wanted: usize, taken: usize, fenced: usize, too_long: bool) -> Option<String> {
    let mut notes = Vec::new();
    if wanted > taken {
        let gone = wanted - taken;
        let most = limits::TOOL_CALLS_PER_STEP;
        notes.push(format!("{gone} further calls were not run: one answer may make at most {most}."));
    }
    if fenced > 0 {
        notes.push(format!(
            "{fenced} `/vm` lines stand inside a code fence and were only shown. To run them, write them outside of it."
        ));
    }
    if too_long {
        notes.push(
            "The answer was longer than 256 KiB; its middle was cut and no command of it was run.".to_owned(),
        );
    }
    (!notes.is_empty()).then(|| notes.join("\n"))
}

fn cut_name(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// FNV-1a over tool and arguments: stable over builds, since it is stored.
fn hash(name: &str, arguments: &Value) -> u64 {
    let text = arguments.to_string();
    name.bytes()
        .chain([0])
        .chain(text.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
