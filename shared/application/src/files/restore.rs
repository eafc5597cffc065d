//! Bringing an earlier version of a file back: as a new version that shares the earlier one's object, so that it takes
//! no time, whatever the size, and can be taken back in turn. A file that the VM deleted comes back in the same way.

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{DeletedFile, FilePointer, FileVersion, ProjectFile, SyncStatus};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use serde_json::json;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::files::{deleted, get, history};
use crate::keys;
use crate::ports::{Ambient, Clock, RequestSave};
use crate::store::{Condition, ReadStore, StoreError, Tx, WriteStore};

/// Makes version `number` the newest one, in the VM too. Restoring the current version changes nothing; any version of a
/// file that the VM deleted brings it back at the path that it had.
///
/// # Errors
/// `not_found`; `conflict` where another file has the path by now; `limit_reached`; of the store.
pub async fn restore<S: WriteStore, A: Ambient>(
    store: &S,
    saver: &impl RequestSave,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
    number: u64,
) -> AppResult<ProjectFile> {
    let owner = authorize(store, principal, project_id, Scope::Write).await?.owner;
    let limits = fair_use::limits_of(store, &owner).await?;
    for _ in 0..8 {
        let (mut file, tx) = match get::load(store, project_id, file_id).await {
            Ok(file) if number == file.object_version => return Ok(file),
            Ok(file) => newest(store, ambient, file, number).await?,
            Err(error) if error.code == ErrorCode::NotFound => {
                let deleted = deleted::find(store, project_id, file_id).await?.ok_or(error)?;
                brought_back(store, ambient, deleted, number).await?
            }
            Err(error) => return Err(error),
        };
        let event = event_of(ambient, &file, number);
        let tx = tx.update(&mut file).append(&LogId::Project(project_id.clone()), event);
        match store.commit(tx.within(&limits)).await {
            Ok(_) => {
                // Making both sides equal writes it into the VM.
                saver.request_save(project_id).await;
                return Ok(file);
            }
            Err(StoreError::Conflict { key }) if key == keys::project(project_id) => {
                return Err(AppError::not_found("project"));
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
}

/// Demands that the version is still there when it is brought back; its bytes go after its record is marked. What the file
/// had last has no record of its own yet.
fn still_there(tx: Tx, wanted: &FileVersion) -> Tx {
    if wanted.version == 0 { tx } else { tx.check(wanted) }
}

/// The file with that version as its newest one, and what must be stored with it.
async fn newest(
    store: &impl ReadStore,
    clock: &impl Clock,
    mut file: ProjectFile,
    number: u64,
) -> AppResult<(ProjectFile, Tx)> {
    let wanted = history::version(store, &file, number).await?;
    let tx = still_there(Tx::new(), &wanted);
    let before = file.as_version();
    file.object_version = file.next_version();
    file.restored_from = Some(wanted.object);
    (file.size, file.sha256, file.mode) = (wanted.size, wanted.sha256, wanted.mode);
    file.sync_status = SyncStatus::Pending;
    file.sync_error = None;
    file.updated_at = clock.now();
    Ok((file, before.map_or(tx.clone(), |mut before| tx.create(&mut before))))
}

/// The same for a file that the VM deleted: it takes its place again, and what it last was becomes an earlier version.
async fn brought_back(
    store: &impl ReadStore,
    clock: &impl Clock,
    deleted: DeletedFile,
    number: u64,
) -> AppResult<(ProjectFile, Tx)> {
    let wanted = history::version(store, &deleted.file, number).await?;
    let (project_id, path) = (deleted.file.project_id.clone(), deleted.file.path.clone());
    if store.get::<ProjectFile>(&keys::file(&project_id, &path)).await?.is_some() {
        let detail = format!(
            "There is another file at `{path}` now. Move or delete it first, or download the version you need."
        );
        return Err(AppError::new(ErrorCode::Conflict, detail));
    }
    let mut tx = still_there(Tx::new(), &wanted)
        .delete(&deleted)
        .require(keys::project(&project_id), Condition::Present);
    if let Some(mut before) = deleted.file.as_version() {
        tx = tx.create(&mut before);
    }
    let file = deleted.restored(&wanted, clock.now());
    let file_id = file.file_id.clone();
    let tx = tx.remove(keys::file_tombstone(&project_id, &path));
    let mut pointer = FilePointer { project_id, file_id, path, version: 0 };
    Ok((file, tx.create(&mut pointer)))
}

fn event_of(clock: &impl Clock, file: &ProjectFile, number: u64) -> NewEvent {
    let data = json!({
        "file_id": file.file_id, "path": file.path, "size": file.size, "sha256": file.sha256,
        "change": "restored", "restored_version": number, "origin": "user",
    });
    NewEvent::new(EventType::FileChanged, clock.now(), data)
}
