//! Uploads that have arrived: S3 -> queue -> VM. Only the messages that failed come again.

use pvm_application::files::sync;
use pvm_application::ports::{Ambient, DeleteObject, GetObject, PutObject, VmFiles};
use pvm_application::store::WriteStore;

use crate::notification::{BatchAnswer, FailedItem, QueueBatch, objects_created};

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
        let created = match objects_created(&message.body) {
            Ok(created) => created,
            Err(error) => {
                // It will never read better: the queue must not bring it again.
                tracing::error!(message.id = %message.message_id, %error, "a queue message is no S3 notification");
                continue;
            }
        };
        for object in created {
            if let Err(error) = sync::object_created(store, objects, vm, ambient, &object).await {
                tracing::warn!(message.id = %message.message_id, error = ?error, "an upload could not be synced");
                answer.batch_item_failures.push(FailedItem { item_identifier: message.message_id });
                break;
            }
        }
    }
    answer
}
