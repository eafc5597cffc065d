//! Store -> VM: works off the events that S3 sends when an object was made. Events come at least once and in any
//! order; the object's version in its key and the event's sequencer put them right.

use futures::StreamExt;
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{
    FilePointer, ProjectFile, Reconcile, SyncStatus, VmCopy, parse_object_key, reconcile as decide,
};
use pvm_domain::ids::ProjectId;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::save;
use crate::keys;
use crate::ports::{Ambient, DeleteObject, GetObject, ObjectError, PutObject, VmError, VmFiles};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::{lease, ready::ready_of};

/// One object-created event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCreated {
    /// The object's key, decoded.
    pub key: String,
    /// S3's sequencer, hex; orders the events of one key.
    pub sequencer: String,
}

/// Notes that the object has arrived and, where the project's VM is active, writes it there. Duplicates, stale events and
/// events of other keys are fine and do nothing.
///
/// # Errors
/// Of the store, the objects or the VM; the queue delivers the event again.
pub async fn object_created<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    event: &ObjectCreated,
) -> AppResult<()>
where
    S: WriteStore,
    O: GetObject + PutObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let Some((project_id, file_id, version)) = parse_object_key(&event.key) else { return Ok(()) };
    for _ in 0..8 {
        let pointer: Option<FilePointer> = store.get(&keys::file_pointer(&project_id, &file_id)).await?;
        let Some(pointer) = pointer else { return Ok(()) };
        let Some(mut file) = store.get::<ProjectFile>(&keys::file(&project_id, &pointer.path)).await? else {
            return Ok(());
        };
        if file.file_id != file_id || version < file.object_version {
            return Ok(());
        }
        if file.object_version != version && !arrive(objects, ambient, &mut file, version).await? {
            return Ok(());
        }
        let sequencer = format!("{:0>32}", event.sequencer);
        if file.sequencer.as_ref().is_none_or(|known| *known < sequencer) {
            file.sequencer = Some(sequencer);
        }
        match push(store, objects, vm, ambient, &project_id, &mut file).await {
            Err(error) if error.code == ErrorCode::Conflict => {}
            other => return other,
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The file keeps changing; it is tried again."))
}

/// A presigned upload is complete: takes size and hash over from the object. False where the object is gone again.
async fn arrive<O: GetObject, A: Ambient>(
    objects: &O,
    ambient: &A,
    file: &mut ProjectFile,
    version: u64,
) -> AppResult<bool> {
    let key = file.object_key(version);
    let info = match objects.head(&key).await {
        Ok(info) => info,
        Err(ObjectError::NotFound) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let sha256 = match info.sha256 {
        Some(known) => known,
        None => hash(objects, &key).await?,
    };
    file.object_version = version;
    file.upload_version = file.upload_version.filter(|open| *open > version);
    file.size = info.size;
    file.sha256 = Some(sha256);
    file.updated_at = ambient.now();
    file.sync_status = SyncStatus::Pending;
    Ok(true)
}

async fn hash(objects: &impl GetObject, key: &str) -> AppResult<String> {
    let (_, mut bytes) = objects.get_stream(key).await?;
    let mut hasher = Sha256::new();
    while let Some(chunk) = bytes.next().await {
        hasher.update(&chunk.map_err(|error| ObjectError::Unavailable(error.into()))?);
    }
    Ok(hex::encode(hasher.finalize()))
}

async fn push<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    file: &mut ProjectFile,
) -> AppResult<()>
where
    S: WriteStore,
    O: GetObject + PutObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let lease = lease::load(store, ambient, project_id).await?;
    let mut result = Ok(());
    if let Some(ready) = ready_of(&lease) {
        let base =
            file.vm_copy.as_ref().filter(|copy| copy.vm_id == ready.vm_id).map(|copy| copy.sha256.clone());
        let stored = file.sha256.clone().unwrap_or_default();
        match write(objects, vm, &ready.vm_id, file, &stored, base.as_deref()).await {
            Ok(true) => {
                file.vm_copy = Some(VmCopy { vm_id: ready.vm_id.clone(), sha256: stored });
                file.sync_status = SyncStatus::Synced;
                file.sync_error = None;
            }
            Ok(false) => {
                // Both sides changed: note what has arrived, then let the whole-workspace pass keep both.
                commit(store, project_id, ambient, file).await?;
                let budget = save::Budget::step();
                save::reconcile(store, objects, vm, ambient, project_id, &ready.vm_id, budget).await?;
                return Ok(());
            }
            Err(error) if error.code == ErrorCode::VmNotReady => {
                lease::note_gone(store, ambient, project_id, &ready.vm_id).await?;
            }
            Err(error) => {
                file.sync_status = SyncStatus::Failed;
                file.sync_error = Some(error.detail.clone());
                result = if error.code == ErrorCode::VmFailed { Ok(()) } else { Err(error) };
            }
        }
    }
    commit(store, project_id, ambient, file).await?;
    result
}

/// Writes the file unless the VM has changes of its own; false where it has.
async fn write<O: GetObject, V: VmFiles>(
    objects: &O,
    vm: &V,
    vm_id: &str,
    file: &ProjectFile,
    stored: &str,
    base: Option<&str>,
) -> AppResult<bool> {
    let in_vm = vm_hash(vm, vm_id, file).await?;
    match decide(stored, in_vm.as_deref(), base) {
        Reconcile::Equal => Ok(true),
        // An upload means to put the file there, also where the VM had deleted it.
        Reconcile::Push | Reconcile::Forget => {
            save::push_file(objects, vm, vm_id, file).await?;
            Ok(true)
        }
        Reconcile::Save | Reconcile::Conflict => Ok(false),
    }
}

async fn vm_hash(vm: &impl VmFiles, vm_id: &str, file: &ProjectFile) -> AppResult<Option<String>> {
    let path = file.path.in_vm();
    if vm.stat(vm_id, &path, "root").await?.is_none() {
        return Ok(None);
    }
    let (_, mut bytes) = match vm.read_file_stream(vm_id, &path, "root").await {
        Ok(found) => found,
        Err(VmError::NotFound(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut hasher = Sha256::new();
    while let Some(chunk) = bytes.next().await {
        hasher.update(&chunk.map_err(|error| VmError::Unavailable(error.into()))?);
    }
    Ok(Some(hex::encode(hasher.finalize())))
}

async fn commit<S: WriteStore, A: Ambient>(
    store: &S,
    project_id: &ProjectId,
    ambient: &A,
    file: &mut ProjectFile,
) -> AppResult<()> {
    let data = json!({
        "file_id": file.file_id, "path": file.path, "size": file.size, "sha256": file.sha256,
        "sync_status": file.sync_status, "change": "uploaded", "origin": "user",
    });
    let event = NewEvent::new(EventType::FileChanged, ambient.now(), data);
    let tx = Tx::new().update(file).append(&LogId::Project(project_id.clone()), event);
    match store.commit(tx).await {
        Ok(_) => Ok(()),
        Err(StoreError::Conflict { .. }) => {
            Err(AppError::new(ErrorCode::Conflict, "The file changed meanwhile."))
        }
        Err(other) => Err(other.into()),
    }
}
