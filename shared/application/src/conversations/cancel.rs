//! Cancelling: the end is committed at once, with its event; only then are commands killed and the execution stopped.

use pvm_domain::conversation::core::Input;
use pvm_domain::conversation::{Conversation, Mode, Run, ToolCall, lane_run};
use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use super::find::find;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, Machine, RunCommands, SendTask, StartExecution, StopExecution};
use crate::ports_tools::Tools;
use crate::runs::{
    Draft, Extra, TRIES, after_end, context_of, kill_call, load_conversation, load_run, pause,
};
use crate::store::{StoreError, WriteStore};

/// Ends the run under way and those that wait; their messages stay. A conversation without a run is left as it is.
///
/// # Errors
/// `not_found`, `forbidden`; of the store.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn cancel<S, W, V, T, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    tools: &T,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
) -> AppResult<Conversation>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    T: Tools,
    A: Ambient,
{
    let found = find(store, principal, project_id, name, Scope::Write).await?;
    let detail = format!("{} cancelled it.", principal.owner);
    cancel_now(store, workflow, vm, tools, ambient, found, &detail).await
}

/// [`cancel`] for the deletion of a project, which asks nobody.
///
/// # Errors
/// Of the store.
pub(crate) async fn cancel_now<S, W, V, T, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    tools: &T,
    ambient: &A,
    found: Conversation,
    detail: &str,
) -> AppResult<Conversation>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    T: Tools,
    A: Ambient,
{
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, &found.conversation_id).await?;
        let Some(active) = conversation.active_run.clone() else { return Ok(conversation) };
        let waiting = conversation.queued.clone();
        let mut draft = Draft::new(store, conversation, ambient.now());
        let mut ended = None;
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
                    stop(store, workflow, vm, tools, ambient, Ended { run, calls: done.cancelled }).await?;
                }
                return Ok(done.conversation);
            }
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The conversation keeps changing; try again in a moment."))
}

/// Ends the lanes of a parallel run that was ended. Each is committed by itself: together they may be more than one
/// transaction holds.
async fn stop_lanes<S, W, V, T, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    tools: &T,
    ambient: &A,
    parent: &Run,
) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    T: Tools,
    A: Ambient,
{
    if parent.core.rules.mode != Mode::Parallel {
        return Ok(());
    }
    for index in (0..).take(parent.agents.len()) {
        let lane = lane_run(&parent.run_id, index);
        for attempt in 0..TRIES {
            let Some(mut run) = store.get::<Run>(&keys::run(&parent.conversation_id, &lane)).await? else {
                break;
            };
            if run.is_over() {
                break;
            }
            let conversation = load_conversation(store, &parent.conversation_id).await?;
            let mut draft = Draft::new(store, conversation, ambient.now());
            let cancel =
                Input::Cancel { reason: "cancelled", detail: "The run of all lanes ended.".to_owned() };
            draft.apply(&mut run, cancel, &Extra::default()).await?;
            draft.save(&mut run);
            match draft.commit().await {
                Ok(done) => {
                    end_outside(store, workflow, vm, tools, ambient, Ended { run, calls: done.cancelled })
                        .await?;
                    break;
                }
                Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
                Err(other) => return Err(other.into()),
            }
        }
    }
    Ok(())
}

/// A run that was ended from outside, and its calls that may be running.
pub(super) struct Ended {
    /// The run.
    pub(super) run: Run,
    /// The calls.
    pub(super) calls: Vec<ToolCall>,
}

/// Kills what still runs, stops the execution, gives the VM back and starts what comes next. The end itself is committed,
/// so trouble here is logged and left to the step that watches a call and to the clean-up.
///
/// # Errors
/// Of the store.
pub(super) async fn stop<S, W, V, T, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    tools: &T,
    ambient: &A,
    ended: Ended,
) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    T: Tools,
    A: Ambient,
{
    stop_lanes(store, workflow, vm, tools, ambient, &ended.run).await?;
    end_outside(store, workflow, vm, tools, ambient, ended).await
}

async fn end_outside<S, W, V, T, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    tools: &T,
    ambient: &A,
    ended: Ended,
) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    T: Tools,
    A: Ambient,
{
    for call in &ended.calls {
        let Some(vm_id) = &call.vm_id else { continue };
        if let Err(error) = kill_call(vm, tools, call, &context_of(&ended.run, call, vm_id)).await {
            tracing::warn!(tool_call.id = %call.tool_call_id, %error, "a cancelled call could not be killed yet");
        }
    }
    let name = ended.run.execution_name();
    if let Err(error) = workflow.stop(Machine::RunTurn, &name, "the run was cancelled").await {
        tracing::warn!(execution.name = name, %error, "the execution of a cancelled run could not be stopped");
    }
    after_end(store, workflow, ambient, ended.run).await
}
