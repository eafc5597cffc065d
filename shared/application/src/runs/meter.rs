//! What a run costs beside its models, counted in the transactions that its work is committed in anyway. Transitions are
//! those of the graph in `statemachines/run-turn.asl.json`; a test compares them with the history of a real execution.
//! Retries of a state are not known here and not counted.

use pvm_domain::Timestamp;
use pvm_domain::conversation::core::Next;
use pvm_domain::conversation::{Run, ToolCall, Usage};

/// Begin and Started.
pub(crate) const BEGIN: u32 = 2;
/// Think and Route.
pub(crate) const THINK: u32 = 2;
/// EnsureVm and Route, then the Think and Route that go on with the calls and commit nothing.
pub(crate) const ENSURE_VM: u32 = 2 + THINK;
/// Approve.
pub(crate) const APPROVE: u32 = 1;
/// The Think and Route that found the lanes, and StartLanes.
pub(crate) const LANES: u32 = THINK + 1;
/// ContinueNew and Continued, then Begin and Started of the next execution.
pub(crate) const CONTINUE: u32 = 2 + BEGIN;
/// FailRun and RunFailed.
pub(crate) const FAIL: u32 = 2;
/// Finish and Finished.
const FINISH: u32 = 2;
/// Pause.
const PAUSE: u32 = 1;
/// RunTool.
const RUN_TOOL: u32 = 1;
/// Backoff, PollTool and ToolDone.
const POLL: u32 = 3;
/// ToolFinished, where a call was polled.
const POLLED: u32 = 1;

/// Units of a transaction that changes a call and tells an event of it: the call, the event and the log's head, written
/// twice each as transactions are, and the reads of call, run, project and lease before it.
const CALL_CHANGE_UNITS: u64 = 3 * 2 + 4;

/// Units of a transaction of `writes` records and events, with the reads of conversation and run before it.
pub(crate) fn units(writes: usize) -> u64 {
    2 * (writes as u64 + 1) + 2
}

/// What running a call cost.
pub(crate) fn of_call(call: &ToolCall) -> Usage {
    if call.started_at.is_none() {
        return Usage::default();
    }
    let polled = if call.polls > 0 { POLL * call.polls + POLLED } else { 0 };
    Usage {
        step_ms: call.step_ms,
        transitions: RUN_TOOL + polled,
        // Claimed, looked at, ended.
        store_units: CALL_CHANGE_UNITS * (2 + u64::from(call.polls)),
        ..Usage::default()
    }
}

/// Transitions that follow without a commit of their own.
pub(crate) fn after(next: &Next, longest_inline_secs: u64) -> u32 {
    match next {
        Next::Finish => FINISH,
        Next::Wait { secs } if *secs > longest_inline_secs => PAUSE,
        _ => 0,
    }
}

/// Brings the time that a run held the VM up to date. Lanes hold it together with the run that they belong to, which
/// counts it once.
pub(crate) fn count_vm(run: &mut Run, now: Timestamp) {
    let Some(since) = run.vm_since.filter(|_| !run.is_over()) else { return };
    if run.lane.is_none() {
        run.core.usage.vm_ms += millis(since, now);
    }
    run.vm_since = Some(now);
}

/// Milliseconds from `start` to `end`; 0 where clocks disagree.
pub(crate) fn millis(start: Timestamp, end: Timestamp) -> u64 {
    u64::try_from(end.as_millisecond() - start.as_millisecond()).unwrap_or(0)
}
