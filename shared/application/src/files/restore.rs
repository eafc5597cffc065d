//! Bringing an earlier version of a file back: as a new version that shares the earlier one's object, so that it takes
//! no time, whatever the size, and can be taken back in turn.

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{ProjectFile, SyncStatus};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use serde_json::json;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::{get, history};
use crate::ports::{Ambient, RequestSave};
use crate::store::{StoreError, Tx, WriteStore};

/// Makes version `number` the newest one, in the VM too. Restoring the current version changes nothing.
///
/// # Errors
/// `not_found`; of the store.
pub async fn restore<S: WriteStore, A: Ambient>(
    store: &S,
    saver: &impl RequestSave,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
    number: u64,
) -> AppResult<ProjectFile> {
    authorize(store, principal, project_id, Scope::Write).await?;
    for _ in 0..8 {
        let mut file = get::load(store, project_id, file_id).await?;
        let wanted = history::version(store, &file, number).await?;
        if number == file.object_version {
            return Ok(file);
        }
        let before = file.as_version();
        file.object_version = file.next_version();
        file.restored_from = Some(wanted.object);
        (file.size, file.sha256, file.mode) = (wanted.size, wanted.sha256, wanted.mode);
        file.sync_status = SyncStatus::Pending;
        file.sync_error = None;
        file.updated_at = ambient.now();
        let data = json!({
            "file_id": file.file_id, "path": file.path, "size": file.size, "sha256": file.sha256,
            "change": "restored", "restored_version": number, "origin": "user",
        });
        let event = NewEvent::new(EventType::FileChanged, ambient.now(), data);
        let mut tx = Tx::new().update(&mut file).append(&LogId::Project(project_id.clone()), event);
        if let Some(mut before) = before {
            tx = tx.overwrite(&mut before);
        }
        match store.commit(tx).await {
            Ok(_) => {
                // Making both sides equal writes it into the VM.
                saver.request_save(project_id).await;
                return Ok(file);
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
}
