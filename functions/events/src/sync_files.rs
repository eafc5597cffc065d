//! Uploads that have arrived: S3 -> queue -> VM. Only the messages that failed come again.

use pvm_application::error::AppResult;
use pvm_application::files::sync;
use pvm_application::ports::{Ambient, DeleteObject, GetObject, PutObject, VmFiles};
use pvm_application::store::WriteStore;

use crate::notification::{BatchAnswer, QueueBatch, QueueMessage, objects_created};

/// Works off a batch, message by message in the order they came.
pub async fn handle<S, O, V, A>(store: &S, objects: &O, vm: &V, ambient: &A, batch: QueueBatch) -> BatchAnswer
where
    S: WriteStore,
    O: GetObject + PutObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let mut answer = BatchAnswer::default();
    for message in batch.records {
        if let Err(error) = sync_all(store, objects, vm, ambient, &message).await {
            tracing::warn!(message.id = %message.message_id, error = ?error, "an upload could not be synced");
            answer.failed(message.message_id);
        }
    }
    answer
}

/// Works off the objects of one message, up to the first that fails.
async fn sync_all<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    message: &QueueMessage,
) -> AppResult<()>
where
    S: WriteStore,
    O: GetObject + PutObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let Some(created) = message.understood(objects_created, "S3 notification") else { return Ok(()) };
    for object in created {
        sync::object_created(store, objects, vm, ambient, &object).await?;
    }
    Ok(())
}
