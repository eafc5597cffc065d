//! Records of tool calls: planned, rejected, cancelled, and told as results.

use pvm_domain::Timestamp;
use pvm_domain::conversation::answer::PlannedCall;
use pvm_domain::conversation::core::CallSeen;
use pvm_domain::conversation::{Approval, ApprovalStatus, CallOrigin, CallResult, CallStatus, Run, ToolCall};
use pvm_domain::event::{EventType, NewEvent};
use pvm_domain::ids::{ConversationId, ToolCallId};
use pvm_domain::{limits, text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::draft::Draft;
use super::meter;
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::store::{ReadStore, WriteStore};

/// An approval waits this long for a person, in seconds: two weeks, as long as the workflow's state waits.
pub(crate) const APPROVAL_SECS: i64 = 14 * 86_400;
/// The most of all results together in a message of results, in bytes.
const RESULTS_BYTES: usize = 64 * 1024;
/// The most of one argument in an event, in bytes as JSON: a written file is not told twice in full.
const ARGUMENT_IN_EVENT_BYTES: usize = 4 * 1024;
/// The most of all arguments in an event, in bytes as JSON: a result stands beside them in an item of 400 KB.
const ARGUMENTS_IN_EVENT_BYTES: usize = 64 * 1024;

/// What an approval is bound to.
pub(crate) fn request_hash(name: &str, arguments: &Value) -> String {
    let mut hasher = Sha256::new();
    hasher.update((name.len() as u64).to_be_bytes());
    hasher.update(name);
    hasher.update(arguments.to_string());
    hex::encode(hasher.finalize())
}

/// Arguments for an event: long ones shortened, those that are no text as their JSON.
pub(crate) fn shown_arguments(arguments: &Value) -> Value {
    let shown = match arguments {
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), shown_argument(value))).collect())
        }
        other => shown_argument(other),
    };
    let all = shown.to_string();
    if all.len() <= ARGUMENTS_IN_EVENT_BYTES {
        return shown;
    }
    json!({"arguments": text::encoded_head_and_tail(&all, ARGUMENTS_IN_EVENT_BYTES).0})
}

fn shown_argument(argument: &Value) -> Value {
    let short = |text: &str| Value::String(text::encoded_head_and_tail(text, ARGUMENT_IN_EVENT_BYTES).0);
    match argument {
        Value::String(text) => short(text),
        Value::Array(_) | Value::Object(_) => {
            let json = argument.to_string();
            if json.len() <= ARGUMENT_IN_EVENT_BYTES { argument.clone() } else { short(&json) }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => argument.clone(),
    }
}

/// Loads a call.
///
/// # Errors
/// `not_found`; of the store.
pub(crate) async fn load(
    store: &impl ReadStore,
    conversation: &ConversationId,
    call: &ToolCallId,
) -> AppResult<ToolCall> {
    store.get(&keys::tool_call(conversation, call)).await?.ok_or_else(|| AppError::not_found("tool call"))
}

/// How every call of the step under way stands.
///
/// # Errors
/// Of the store.
pub(crate) async fn seen(store: &impl ReadStore, run: &Run) -> AppResult<Vec<CallSeen>> {
    let mut seen = Vec::new();
    for acting in run.core.acting() {
        let call = load(store, &run.conversation_id, &acting.tool_call_id).await?;
        let approval = match &acting.approval_id {
            Some(id) => {
                let approval: Option<Approval> = store.get(&keys::approval(&run.conversation_id, id)).await?;
                Some(approval.map_or(ApprovalStatus::Pending, |approval| approval.status))
            }
            None => None,
        };
        let saw = call.result.as_ref().filter(|_| acting.read_only).map(fingerprint);
        let (status, polls, cost) = (call.status, call.polls, meter::of_call(&call));
        seen.push(CallSeen { tool_call_id: call.tool_call_id, status, approval, polls, saw, cost });
    }
    Ok(seen)
}

/// Tells answers apart; the first bytes of a SHA-256, since it is stored.
fn fingerprint(result: &CallResult) -> u64 {
    let digest = Sha256::digest(json!([result.is_error, result.text, result.structured]).to_string());
    digest.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
}

/// Records planned calls, with the approvals they need; rejected ones have their result at once.
pub(crate) fn plan<S: WriteStore>(draft: &mut Draft<'_, S>, run: &Run, planned: Vec<PlannedCall>) {
    for plan in planned {
        let mut call = ToolCall {
            conversation_id: run.conversation_id.clone(),
            run_id: run.run_id.clone(),
            tool_call_id: plan.tool_call_id,
            step: plan.step,
            agent_id: plan.agent_id,
            origin: plan.origin,
            name: plan.name,
            arguments: plan.arguments,
            status: CallStatus::Planned,
            epoch: None,
            vm_id: None,
            approval_id: plan.approval_id.clone(),
            polls: 0,
            step_ms: 0,
            result: None,
            started_at: None,
            finished_at: None,
            version: 0,
        };
        if let Some(why) = plan.rejected {
            finish(&mut call, CallStatus::Failed, error(why), draft.now);
            draft.tell(finished_event(&call, draft.now));
        }
        if let Some(approval_id) = plan.approval_id {
            let mut approval = Approval {
                conversation_id: run.conversation_id.clone(),
                run_id: run.run_id.clone(),
                approval_id,
                tool_call_id: call.tool_call_id.clone(),
                agent_id: call.agent_id.clone(),
                name: call.name.clone(),
                arguments: call.arguments.clone(),
                request_hash: request_hash(&call.name, &call.arguments),
                status: ApprovalStatus::Pending,
                decided_by: None,
                comment: None,
                tokens: Vec::new(),
                expires_at: draft.in_secs(APPROVAL_SECS),
                created_at: draft.now,
                version: 0,
            };
            let data = json!({
                "run_id": run.run_id,
                "approval_id": approval.approval_id,
                "tool_call_id": approval.tool_call_id,
                "name": approval.name,
                "arguments": shown_arguments(&approval.arguments),
                "request_hash": approval.request_hash,
                "expires_at": approval.expires_at,
            });
            draft.tell(NewEvent::new(EventType::ApprovalRequired, draft.now, data).by(&approval.agent_id));
            draft.write(|tx| tx.create(&mut approval));
        }
        draft.write(|tx| tx.create(&mut call));
    }
}

pub(crate) fn error(text: impl Into<String>) -> CallResult {
    CallResult { is_error: true, text: text.into(), structured: None, output_path: None }
}

/// Gives a call its end.
pub(crate) fn finish(call: &mut ToolCall, status: CallStatus, result: CallResult, now: Timestamp) {
    call.status = status;
    call.result = Some(result);
    call.finished_at = Some(now);
}

/// The event that tells a call's end.
pub(crate) fn finished_event(call: &ToolCall, now: Timestamp) -> NewEvent {
    let result = call.result.as_ref();
    let data = json!({
        "run_id": call.run_id,
        "tool_call_id": call.tool_call_id,
        "name": call.name,
        "origin": call.origin,
        "arguments": shown_arguments(&call.arguments),
        "status": call.status,
        "is_error": result.is_some_and(|result| result.is_error),
        "text": result.map(|result| result.text.as_str()),
        "structured": result.and_then(|result| result.structured.as_ref()).filter(|data| fits(data)),
        "output_path": result.and_then(|result| result.output_path.as_ref()),
        "duration_ms": call.started_at.map(|start| now.as_millisecond() - start.as_millisecond()),
    });
    NewEvent::new(EventType::ToolFinished, now, data).by(&call.agent_id)
}

fn fits(data: &Value) -> bool {
    data.to_string().len() <= limits::BODY_IN_RECORD_BYTES
}

/// Records that a planned call is not run.
///
/// # Errors
/// Of the store.
pub(crate) async fn reject<S: WriteStore>(
    draft: &mut Draft<'_, S>,
    run: &Run,
    id: &ToolCallId,
    why: &str,
) -> AppResult<()> {
    let mut call = load(draft.store, &run.conversation_id, id).await?;
    finish(&mut call, CallStatus::Failed, error(why), draft.now);
    draft.tell(finished_event(&call, draft.now));
    draft.write(|tx| tx.update(&mut call));
    Ok(())
}

/// Records that a call is cancelled, unless it has ended; its approval, if it waits for one, is closed with it.
///
/// # Errors
/// Of the store.
pub(crate) async fn cancel<S: WriteStore>(
    draft: &mut Draft<'_, S>,
    run: &Run,
    id: &ToolCallId,
) -> AppResult<()> {
    let mut call = load(draft.store, &run.conversation_id, id).await?;
    if call.status.is_final() {
        return Ok(());
    }
    let started = call.status != CallStatus::Planned;
    let text = if started { "Cancelled while it ran." } else { "Cancelled before it ran." };
    finish(&mut call, CallStatus::Cancelled, error(text), draft.now);
    if let Some(approval_id) = &call.approval_id {
        let key = keys::approval(&run.conversation_id, approval_id);
        let approval: Option<Approval> = draft.store.get(&key).await?;
        if let Some(mut approval) = approval.filter(|approval| approval.status == ApprovalStatus::Pending) {
            approval.status = ApprovalStatus::Expired;
            approval.tokens.clear();
            draft.tell(decided_event(&approval, draft.now));
            draft.write(|tx| tx.update(&mut approval));
        }
    }
    draft.tell(finished_event(&call, draft.now));
    draft.write(|tx| tx.update(&mut call));
    if started {
        draft.cancelled.push(call.tool_call_id);
    }
    Ok(())
}

/// The event that tells an approval's end.
pub(crate) fn decided_event(approval: &Approval, now: Timestamp) -> NewEvent {
    let data = json!({
        "run_id": approval.run_id,
        "approval_id": approval.approval_id,
        "tool_call_id": approval.tool_call_id,
        "decision": approval.status,
        "decided_by": approval.decided_by,
        "comment": approval.comment,
    });
    NewEvent::new(EventType::ApprovalDecided, now, data).by(&approval.agent_id)
}

/// The text of a "VM Execution Results" message.
///
/// # Errors
/// Of the store.
pub(crate) async fn results(
    store: &impl ReadStore,
    run: &Run,
    ids: &[ToolCallId],
    note: Option<String>,
) -> AppResult<String> {
    let mut parts = vec!["VM Execution Results:".to_owned()];
    let each = RESULTS_BYTES / ids.len().max(1);
    for id in ids {
        let call = load(store, &run.conversation_id, id).await?;
        debug_assert_eq!(call.origin, CallOrigin::VmLine);
        let command = call.arguments.get("command").and_then(Value::as_str).unwrap_or_default();
        let output = call.result.as_ref().map_or("(no result)", |result| result.text.as_str());
        let output = text::head_and_tail(output.trim_end(), each).0;
        parts.push(format!("$ {}\n{output}", first_line(command)));
    }
    if let Some(note) = note {
        parts.push(format!("Note: {note}"));
    }
    Ok(parts.join("\n\n"))
}

/// A command's first line; of a longer one, how many lines follow.
fn first_line(command: &str) -> String {
    let more = command.lines().count().saturating_sub(1);
    let first = command.lines().next().unwrap_or_default();
    if more == 0 { first.to_owned() } else { format!("{first}  (and {more} more lines)") }
}
