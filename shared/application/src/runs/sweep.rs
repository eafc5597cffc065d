//! The clean-up of runs: a start, a signal or a kill that was lost between two systems is sent again, and a run whose
//! execution is gone is ended.

use pvm_domain::conversation::core::Phase;
use pvm_domain::conversation::{ApprovalStatus, Run, RunStatus};
use pvm_domain::ids::{ConversationId, RunId};

use super::continue_run::start;
use super::draft::load_run;
use super::kills::kill_left;
use super::{approve, finish, lanes};
use crate::error::{AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, RunCommands, SendTask, StartExecution, Started};
use crate::store::{Index, Listing, StoreError, Tx, WriteStore};

/// Runs looked at by one call, per shard.
const BATCH: u32 = 25;
/// A run that was looked at is left alone for this long, in seconds.
const AGAIN_SECS: i64 = 600;

/// Looks after every run that is due; answers how many there were.
///
/// # Errors
/// Of the store's listing; trouble with a single run is logged and left to the next call.
pub async fn sweep<S, W, V, A>(store: &S, workflow: &W, vm: &V, ambient: &A) -> AppResult<u32>
where
    S: WriteStore,
    W: StartExecution + SendTask,
    V: RunCommands,
    A: Ambient,
{
    let mut looked = 0;
    for shard in 0..keys::SWEEP_SHARDS {
        let pk = keys::sweep_partition(keys::Sweep::Run, shard);
        let mut listing = Listing::of(pk, "").from_index(Index::Sweep).page(BATCH, None);
        listing.up_to = Some(keys::sweep_up_to(ambient.now()));
        for found in store.list::<Run>(listing).await?.items {
            looked += 1;
            if let Err(error) = look(store, workflow, vm, ambient, &found).await {
                tracing::warn!(run.id = %found.run_id, error = ?error, "clean-up could not deal with a run");
            }
        }
    }
    Ok(looked)
}

async fn look<S, W, V, A>(store: &S, workflow: &W, vm: &V, ambient: &A, found: &Run) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution + SendTask,
    V: RunCommands,
    A: Ambient,
{
    // The index may lag: the record decides.
    let mut run = match load_run(store, &found.conversation_id, &found.run_id).await {
        Ok(run) => run,
        Err(error) if error.code == ErrorCode::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if run.due_at > ambient.now() {
        return Ok(());
    }
    if run.is_over() {
        run = kill_left(store, vm, ambient, run).await?;
        if !run.unkilled.is_empty() {
            put_off(store, ambient, &mut run).await?;
        }
        return finish::after_end(store, workflow, ambient, run).await;
    }
    // Also where it was begun: a later segment's start gets lost as easily, and one that goes on is left alone.
    if run.status == RunStatus::Running && start(workflow, &run).await? == Started::Closed {
        return finish::end_abandoned(store, workflow, ambient, &run).await;
    }
    if let Phase::Lanes { .. } = &run.core.phase {
        lanes::note_ended(store, workflow, ambient, &run).await?;
        run = load_run(store, &run.conversation_id, &run.run_id).await?;
    }
    for call in run.core.acting() {
        let Some(id) = &call.approval_id else { continue };
        let approval = approve::load(store, &run.conversation_id, id).await?;
        if approval.status != ApprovalStatus::Pending {
            approve::send(workflow, &run, &approval).await?;
        }
    }
    put_off(store, ambient, &mut run).await
}

/// Leaves a run alone for a while; one that changed meanwhile is looked at when it says.
async fn put_off(store: &impl WriteStore, ambient: &impl Ambient, run: &mut Run) -> AppResult<()> {
    run.due_at =
        ambient.now().saturating_add(jiff::SignedDuration::from_secs(AGAIN_SECS)).unwrap_or(run.due_at);
    match store.commit(Tx::new().update(run)).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// Whether `holder`, a name made by [`super::holder`], is a run that needs the VM no more. Anything else is not known
/// here and answers `false`.
///
/// # Errors
/// Of the store.
pub async fn is_over(store: &impl crate::store::ReadStore, holder: &str) -> AppResult<bool> {
    let Some((conversation, run)) = holder.split_once('/') else { return Ok(false) };
    let (Ok(conversation), Ok(run)) = (conversation.parse::<ConversationId>(), run.parse::<RunId>()) else {
        return Ok(false);
    };
    match load_run(store, &conversation, &run).await {
        Ok(run) => Ok(run.is_over()),
        Err(error) if error.code == ErrorCode::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
