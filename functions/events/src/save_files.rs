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

use crate::notification::{BatchAnswer, FailedItem, QueueBatch};

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
        if !answer.batch_item_failures.is_empty() {
            answer.batch_item_failures.push(FailedItem { item_identifier: message.message_id });
            continue;
        }
        let request: SaveRequest = match serde_json::from_str(&message.body) {
            Ok(request) => request,
            Err(error) => {
                // It will never read better: the queue must not bring it again.
                tracing::error!(message.id = %message.message_id, %error, "a queue message is no request to save");
                continue;
            }
        };
        if let Some(archive_id) = &request.archive_id {
            let built =
                archives::build::build(store, objects, vm, ambient, &request.project_id, archive_id).await;
            if let Err(error) = built {
                tracing::warn!(project.id = %request.project_id, ?error, "an archive could not be built");
                answer.batch_item_failures.push(FailedItem { item_identifier: message.message_id });
            }
            continue;
        }
        match save(store, objects, vm, ambient, &request.project_id).await {
            Ok(false) => {}
            Ok(true) => saver.request_save(&request.project_id).await,
            Err(error) => {
                tracing::warn!(project.id = %request.project_id, ?error, "a workspace could not be saved");
                answer.batch_item_failures.push(FailedItem { item_identifier: message.message_id });
            }
        }
    }
    answer
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
