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
    for QueueMessage { message_id, body } in batch.records {
        if let Err(error) = sync_all(store, objects, vm, ambient, &message_id, &body).await {
            tracing::warn!(message.id = %message_id, error = ?error, "an upload could not be synced");
            answer.failed(message_id);
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
    message_id: &str,
    body: &str,
) -> AppResult<()>
where
    S: WriteStore,
    O: GetObject + PutObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let created = match objects_created(body) {
        Ok(created) => created,
        Err(error) => {
            // It will never read better: the queue must not bring it again.
            tracing::error!(message.id = %message_id, %error, "a queue message is no S3 notification");
            return Ok(());
        }
    };
    for object in created {
        sync::object_created(store, objects, vm, ambient, &object).await?;
    }
    Ok(())
}
