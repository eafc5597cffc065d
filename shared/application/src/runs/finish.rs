//! Finish: the run's end is noted, the VM given back, the next run started. Cancelling does the same from outside.

use pvm_contracts::steps::{FinishInput, NextStep, RunInput, RunOutput, StepControl, caught};
use pvm_domain::conversation::core::{Input, Phase};
use pvm_domain::conversation::{Conversation, Run};
use pvm_domain::ids::{ConversationId, RunId};
use pvm_domain::text::head_and_tail;

use super::continue_run::start;
use super::draft::{Extra, load_conversation, load_run};
use super::ensure_vm::release;
use super::lanes;
use super::meter;
use super::step::{Ask, Meter, step};
use crate::error::{AppResult, ErrorCode};
use crate::ports::{Ambient, SendTask, StartExecution};
use crate::store::WriteStore;

/// The step; also FailRun, with the error that the state machine caught.
///
/// # Errors
/// Of the store or the workflow engine.
pub async fn finish_run<S: WriteStore, W: StartExecution + SendTask, A: Ambient>(
    store: &S,
    workflow: &W,
    ambient: &A,
    input: FinishInput,
) -> AppResult<RunOutput> {
    let output = RunInput {
        conversation_id: input.conversation_id.clone(),
        run_id: input.run_id.clone(),
        segment: input.segment,
    }
    .output(StepControl::next(NextStep::Finish));
    let fault = match &input.error {
        Some(error) => fault(error, input.cause.as_deref().unwrap_or_default()),
        // The rules said that it is over; if they did not, something is wrong with the workflow.
        None => ("workflow_ended", "The workflow ended before the run did.".to_owned()),
    };
    end(store, workflow, ambient, &input.conversation_id, &input.run_id, Some(input.segment), fault).await?;
    Ok(output)
}

fn fault(error: &str, cause: &str) -> (&'static str, String) {
    let reason = match error {
        "VmUnavailable" => "vm_unavailable",
        "Throttled" | "Transient" => "overloaded",
        "States.Timeout" => "timed_out",
        _ => "internal",
    };
    (reason, head_and_tail(&caught(error, cause), 2000).0)
}

/// The execution of a run that goes on is closed, and nothing told of its end: it must not stay open.
///
/// # Errors
/// Of the store or the workflow engine.
pub(super) async fn end_abandoned<S: WriteStore, W: StartExecution + SendTask, A: Ambient>(
    store: &S,
    workflow: &W,
    ambient: &A,
    run: &Run,
) -> AppResult<()> {
    let fault = ("workflow_ended", "The workflow's execution ended without ending the run.".to_owned());
    end(store, workflow, ambient, &run.conversation_id, &run.run_id, Some(run.segment), fault).await
}

/// An execution ended without a word of its own (aborted, timed out, failed): its run must not stay open. A run that was
/// ended, or is worked on by another execution, is only cleaned up after.
///
/// # Errors
/// Of the store or the workflow engine.
pub async fn execution_ended<S: WriteStore, W: StartExecution + SendTask, A: Ambient>(
    store: &S,
    workflow: &W,
    ambient: &A,
    input: &RunInput,
    status: &str,
) -> AppResult<()> {
    let fault = ("workflow_ended", format!("The workflow's execution ended as {status}."));
    let ended =
        end(store, workflow, ambient, &input.conversation_id, &input.run_id, Some(input.segment), fault)
            .await;
    match ended {
        // The project was deleted.
        Err(error) if error.code == ErrorCode::NotFound => Ok(()),
        other => other,
    }
}

/// Ends a run by a fault. `segment` names the execution that failed, if one did: a run that others work on stays.
///
/// # Errors
/// Of the store or the workflow engine.
async fn end<S: WriteStore, W: StartExecution + SendTask, A: Ambient>(
    store: &S,
    workflow: &W,
    ambient: &A,
    conversation_id: &ConversationId,
    run_id: &RunId,
    segment: Option<u32>,
    (reason, detail): (&'static str, String),
) -> AppResult<()> {
    let ask = Ask::Input(Input::Fail { reason, detail });
    let spent = Meter { transitions: meter::FAIL, ..Meter::default() };
    let stepped =
        step(store, ambient, conversation_id, run_id, segment, &ask, &Extra::default(), spent).await?;
    if stepped.run.is_over() {
        after_end(store, workflow, ambient, stepped.run).await?;
    }
    Ok(())
}

/// What follows a run's end, from whichever side it came. Safe to repeat.
///
/// # Errors
/// Of the store or the workflow engine.
pub(crate) async fn after_end<S: WriteStore, W: StartExecution + SendTask, A: Ambient>(
    store: &S,
    workflow: &W,
    ambient: &A,
    run: Run,
) -> AppResult<()> {
    let run = release(store, ambient, run).await?;
    if let Some(lane) = &run.lane {
        let parent = load_run(store, &run.conversation_id, &lane.parent).await?;
        return lanes::note_ended(store, workflow, ambient, &parent).await;
    }
    let conversation = load_conversation(store, &run.conversation_id).await?;
    start_next(store, workflow, &conversation).await
}

/// Starts the execution of the active run, where nothing has begun it yet.
///
/// # Errors
/// Of the store or the workflow engine.
pub(crate) async fn start_next<S: WriteStore, W: StartExecution>(
    store: &S,
    workflow: &W,
    conversation: &Conversation,
) -> AppResult<()> {
    let Some(run_id) = &conversation.active_run else { return Ok(()) };
    let next = load_run(store, &conversation.conversation_id, run_id).await?;
    if next.core.phase == Phase::New {
        start(workflow, &next).await?;
    }
    Ok(())
}
