//! Workspaces that may have changed: queue -> bucket. A request whose project has no active VM has nothing to save: the
//! workspace was saved before the VM was paused or ended.

use pvm_application::archives;
use pvm_application::error::{AppError, AppResult};
use pvm_application::files::save::{self, Budget};
use pvm_application::ports::{Ambient, DeleteObject, GetObject, PutObject, RequestSave, VmFiles};
use pvm_application::store::WriteStore;
use pvm_application::vm::{lease, ready};
use pvm_contracts::lifecycle::SaveRequest;
use pvm_domain::ids::ProjectId;

use crate::notification::{BatchAnswer, QueueBatch, QueueMessage};

/// Works off a batch, message by message in the order they came. The queue keeps that order: what stands behind a
/// failed message is not touched, and comes again with it.
pub async fn handle<S, O, V, Q, A>(
    store: &S,
    objects: &O,
    vm: &V,
    saver: &Q,
    ambient: &A,
    batch: QueueBatch,
) -> BatchAnswer
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    Q: RequestSave,
    A: Ambient,
{
    let mut answer = BatchAnswer::default();
    for message in batch.records {
        let behind_a_failure = !answer.batch_item_failures.is_empty();
        if behind_a_failure || work_off(store, objects, vm, saver, ambient, &message).await.is_err() {
            answer.failed(message.message_id);
        }
    }
    answer
}

/// Does what one message asks for; an error has been told.
async fn work_off<S, O, V, Q, A>(
    store: &S,
    objects: &O,
    vm: &V,
    saver: &Q,
    ambient: &A,
    message: &QueueMessage,
) -> AppResult<()>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    Q: RequestSave,
    A: Ambient,
{
    let read = |body: &str| serde_json::from_str::<SaveRequest>(body);
    let Some(request) = message.understood(read, "request to save") else { return Ok(()) };
    let project_id = &request.project_id;
    let done = match &request.archive_id {
        Some(archive) => {
            archives::build::build(store, objects, vm, ambient, project_id, archive).await.map(|()| false)
        }
        None => save(store, objects, vm, ambient, project_id).await,
    };
    match done {
        Ok(true) => saver.request_save(project_id).await,
        Ok(false) => {}
        Err(error) => {
            let what = if request.archive_id.is_some() { "archive" } else { "workspace" };
            tracing::warn!(project.id = %project_id, what, ?error, "a request to save could not be worked off");
            return Err(error);
        }
    }
    Ok(())
}

/// Saves what fits into one call; answers whether there is more.
async fn save<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<bool>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let lease = lease::load(store, ambient, project_id).await?;
    let Some(active) = ready::ready_of(&lease) else { return Ok(false) };
    let saved = save::reconcile(store, objects, vm, ambient, project_id, &active.vm_id, Budget::step()).await;
    Ok::<_, AppError>(saved?.more)
}
