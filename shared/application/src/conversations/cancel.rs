//! Cancelling: the end is committed at once, with its event; only then are commands killed and executions stopped.

use futures::future::join_all;
use pvm_domain::conversation::core::Input;
use pvm_domain::conversation::{Conversation, Mode, Run, lane_run};
use pvm_domain::ids::{ProjectId, RunId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use super::find::find;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, Machine, RunCommands, SendTask, StartExecution, StopExecution};
use crate::runs::{
    Draft, Extra, TRIES, after_end, forget_killed, kill_noted, load_conversation, load_run, pause,
};
use crate::store::{StoreError, WriteStore};

/// Ends the run under way and those that wait; their messages stay. A conversation without a run is left as it is.
///
/// # Errors
/// `not_found`, `forbidden`; of the store.
pub async fn cancel<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
) -> AppResult<Conversation>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    A: Ambient,
{
    let found = find(store, principal, project_id, name, Scope::Write).await?;
    let detail = format!("{} cancelled it.", principal.owner);
    cancel_now(store, workflow, vm, ambient, found, &detail).await
}

/// [`cancel`] for the deletion of a project, which asks nobody.
///
/// # Errors
/// Of the store.
pub(crate) async fn cancel_now<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    found: Conversation,
    detail: &str,
) -> AppResult<Conversation>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    A: Ambient,
{
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, &found.conversation_id).await?;
        let Some(active) = conversation.active_run.clone() else { return Ok(conversation) };
        let waiting = conversation.queued.clone();
        let mut draft = Draft::new(store, conversation, ambient.now());
        let mut ended = None;
        // At most `limits::CANCEL_ITEMS` writes.
        for run_id in std::iter::once(&active).chain(&waiting) {
            let mut run = load_run(store, &found.conversation_id, run_id).await?;
            if *run_id != active {
                draft.place_message_of(&run).await?;
            }
            let cancel = Input::Cancel { reason: "cancelled", detail: detail.to_owned() };
            draft.apply(&mut run, cancel, &Extra::default()).await?;
            draft.save(&mut run);
            ended.get_or_insert(run);
        }
        match draft.commit().await {
            Ok(done) => {
                if let Some(run) = ended {
                    stop(store, workflow, vm, ambient, run).await?;
                }
                return Ok(done.conversation);
            }
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The conversation keeps changing; try again in a moment."))
}

/// After a run was ended from outside: kills what it and its lanes still run, stops their executions, gives the VM back
/// and starts what comes next. The ends themselves are committed, so trouble here is logged and left to the step that
/// watches a call and to the clean-up.
///
/// # Errors
/// Of the store.
pub(super) async fn stop<S, W, V, A>(store: &S, workflow: &W, vm: &V, ambient: &A, run: Run) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    A: Ambient,
{
    let mut ended = end_lanes(store, ambient, &run).await?;
    ended.push(run);
    // All kills at once: the commands of the last of ten lanes end as soon as those of the first.
    let killed = join_all(ended.iter().map(|run| kill_noted(store, vm, run))).await;
    for (run, gone) in ended.into_iter().zip(killed) {
        let run = forget_killed(store, ambient, run, &gone).await?;
        let name = run.execution_name();
        if let Err(error) = workflow.stop(Machine::RunTurn, &name, "the run was cancelled").await {
            tracing::warn!(execution.name = name, %error, "the execution of a cancelled run could not be stopped");
        }
        after_end(store, workflow, ambient, run).await?;
    }
    Ok(())
}

/// Ends the lanes of a parallel run that was ended. Each is committed by itself: together they may be more than one
/// transaction holds.
async fn end_lanes<S: WriteStore, A: Ambient>(store: &S, ambient: &A, parent: &Run) -> AppResult<Vec<Run>> {
    let mut ended = Vec::new();
    if parent.core.rules.mode == Mode::Parallel {
        for index in (0..).take(parent.agents.len()) {
            ended.extend(end_lane(store, ambient, parent, &lane_run(&parent.run_id, index)).await?);
        }
    }
    Ok(ended)
}

/// Ends one lane; `None` where it never was or had ended.
async fn end_lane<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    parent: &Run,
    lane: &RunId,
) -> AppResult<Option<Run>> {
    for attempt in 0..TRIES {
        let found = store.get::<Run>(&keys::run(&parent.conversation_id, lane)).await?;
        let Some(mut run) = found.filter(|run| !run.is_over()) else { return Ok(None) };
        let conversation = load_conversation(store, &parent.conversation_id).await?;
        let mut draft = Draft::new(store, conversation, ambient.now());
        let detail = "The run of all lanes ended.".to_owned();
        let cancel = Input::Cancel { reason: "cancelled", detail };
        draft.apply(&mut run, cancel, &Extra::default()).await?;
        draft.save(&mut run);
        match draft.commit().await {
            Ok(_) => return Ok(Some(run)),
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    // Whoever works on it sees that its parallel run has ended.
    Ok(None)
}
