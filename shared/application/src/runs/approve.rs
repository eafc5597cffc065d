//! Approve: the run waits for a person, without compute and without the VM. The task token ends the wait; whoever sees
//! that both the decision and the token are there sends it.

use pvm_contracts::steps::{ExpireApprovalInput, NextStep, RunInput, RunOutput, StepControl, WaitingInput};
use pvm_domain::conversation::core::Input;
use pvm_domain::conversation::{Approval, ApprovalStatus, Run};
use pvm_domain::ids::{ApprovalId, ConversationId};

use super::calls;
use super::draft::{Draft, Extra, load_conversation, load_run};
use super::ensure_vm::release;
use super::meter;
use super::step::{Ask, Meter, TRIES, pause, step};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, SendTask};
use crate::store::{ReadStore, StoreError, WriteStore};

/// Loads an approval.
///
/// # Errors
/// `not_found`; of the store.
pub(crate) async fn load(
    store: &impl ReadStore,
    conversation: &ConversationId,
    id: &ApprovalId,
) -> AppResult<Approval> {
    store.get(&keys::approval(conversation, id)).await?.ok_or_else(|| AppError::not_found("approval"))
}

/// AskApproval: keeps the token, gives the VM back, and lets the run wait.
///
/// # Errors
/// Of the store or the workflow engine.
pub async fn ask_approval<S: WriteStore, K: SendTask, A: Ambient>(
    store: &S,
    tasks: &K,
    ambient: &A,
    input: WaitingInput,
) -> AppResult<()> {
    let Some(id) = &input.approval_id else {
        return Err(AppError::new(ErrorCode::Internal, "The step was not told which approval to ask for."));
    };
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, &input.conversation_id).await?;
        let mut run = load_run(store, &input.conversation_id, &input.run_id).await?;
        let mut approval = load(store, &input.conversation_id, id).await?;
        let mut draft = Draft::new(store, conversation, ambient.now());
        approval.tokens.push(input.token.clone());
        draft.write(|tx| tx.update(&mut approval));
        let waits = approval.status == ApprovalStatus::Pending && !run.is_over();
        if waits {
            draft.apply(&mut run, Input::Waiting { approval: id.clone() }, &Extra::default()).await?;
            run.core.usage.transitions += meter::APPROVE;
            draft.save(&mut run);
        }
        match draft.commit().await {
            Ok(_) if waits => {
                release(store, ambient, run).await?;
                return Ok(());
            }
            // It was decided, or the run ended, before the workflow came to wait.
            Ok(_) => return send(tasks, &run, &approval).await,
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The approval keeps changing; try again in a moment."))
}

/// Ends the workflow's wait, where it waits: its next state is Think.
///
/// # Errors
/// Of the workflow engine.
pub(crate) async fn send(tasks: &impl SendTask, run: &Run, approval: &Approval) -> AppResult<()> {
    if approval.tokens.is_empty() {
        return Ok(());
    }
    let input = RunInput {
        conversation_id: run.conversation_id.clone(),
        run_id: run.run_id.clone(),
        segment: run.segment,
    };
    let output = input.output(StepControl::next(NextStep::Think));
    let output = serde_json::to_value(output).map_err(|error| {
        AppError::new(ErrorCode::Internal, "The answer to the workflow cannot be written.").because(error)
    })?;
    // One that is answered with false was of a try that the workflow has given up, or the wait is over already.
    for token in &approval.tokens {
        tasks.send_success(token, &output).await?;
    }
    Ok(())
}

/// Notes a decision. One that was noted before stays; answers the approval as it stands then.
///
/// # Errors
/// Of the store; `conflict` when others kept being faster.
pub(crate) async fn decide<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    conversation_id: &ConversationId,
    id: &ApprovalId,
    note: impl Fn(&mut Approval) + Send,
) -> AppResult<(Approval, Run)> {
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, conversation_id).await?;
        let mut approval = load(store, conversation_id, id).await?;
        let mut run = load_run(store, conversation_id, &approval.run_id).await?;
        if approval.status != ApprovalStatus::Pending {
            return Ok((approval, run));
        }
        let mut draft = Draft::new(store, conversation, ambient.now());
        note(&mut approval);
        draft.tell(calls::decided_event(&approval, draft.now));
        draft.write(|tx| tx.update(&mut approval));
        if !run.is_over() {
            resume(&mut draft, &mut run, &approval).await?;
        }
        match draft.commit().await {
            Ok(_) => return Ok((approval, run)),
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The approval keeps changing; try again in a moment."))
}

/// The run stops waiting, if it waited for this decision.
async fn resume<S: WriteStore>(
    draft: &mut Draft<'_, S>,
    run: &mut Run,
    approval: &Approval,
) -> AppResult<()> {
    let waited = run.core.waiting_since.is_some();
    let resumed = Input::Resumed { approval: approval.approval_id.clone() };
    draft.apply(run, resumed, &Extra::default()).await?;
    // It goes on with a Think that commits nothing; one that records a refusal counts itself.
    if waited && run.core.waiting_since.is_none() && approval.status == ApprovalStatus::Approved {
        run.core.usage.transitions += meter::THINK;
    }
    draft.save(run);
    Ok(())
}

/// ApprovalExpired: nobody decided in time, which is a no.
///
/// # Errors
/// Of the store.
pub async fn expire_approval<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    input: ExpireApprovalInput,
) -> AppResult<RunOutput> {
    let expire = |approval: &mut Approval| approval.status = ApprovalStatus::Expired;
    decide(store, ambient, &input.conversation_id, &input.approval_id, expire).await?;
    let run =
        RunInput { conversation_id: input.conversation_id, run_id: input.run_id, segment: input.segment };
    // Where it was decided at the last moment the run does not wait any more.
    let ask = Ask::Input(Input::Resumed { approval: input.approval_id });
    let (spent, extra) = (Meter::default(), Extra::default());
    step(store, ambient, &run.conversation_id, &run.run_id, Some(run.segment), &ask, &extra, spent).await?;
    Ok(run.output(StepControl::next(NextStep::Think)))
}
