//! Deleting a file on both sides. A tombstone remembers it until the VM has no copy any more, so that a VM that is
//! paused now does not bring it back later.

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{ProjectFile, VmCopy, WorkspacePath};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::deleted;
use crate::files::sync::InVm;
use crate::keys;
use crate::ports::{Ambient, DeleteObject, VmError, VmFiles};
use crate::records::record;
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::{lease, ready};

/// A file that was deleted while a VM may still have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) project_id: ProjectId,
    pub(crate) path: WorkspacePath,
    pub(crate) copy: VmCopy,
    pub(crate) version: u64,
}
record!(Tombstone, "file_tombstone", |r| keys::file_tombstone(&r.project_id, &r.path));

/// Deletes a file for good: record, stored versions, and the VM's copy. Of one that the VM deleted it forgets what is kept.
///
/// # Errors
/// `not_found`; of the stores or the VM.
pub async fn delete<S: WriteStore, O: DeleteObject, V: VmFiles, A: Ambient>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<()> {
    authorize(store, principal, project_id, Scope::Write).await?;
    for _ in 0..8 {
        let file = match super::get::load(store, project_id, file_id).await {
            Err(error) if error.code == ErrorCode::NotFound => {
                let kept = deleted::load(store, project_id, file_id).await?.ok_or(error)?;
                if deleted::forget(store, objects, kept).await? {
                    return Ok(());
                }
                continue;
            }
            found => found?,
        };
        let mut tombstone = file.vm_copy.clone().map(|copy| Tombstone {
            project_id: project_id.clone(),
            path: file.path.clone(),
            copy,
            version: 0,
        });
        let mut tx = Tx::new().delete(&file).remove(keys::file_pointer(project_id, file_id));
        if let Some(tombstone) = &mut tombstone {
            tx = tx.overwrite(tombstone);
        }
        tx = tx.append(&LogId::Project(project_id.clone()), event_of(&file, ambient));
        match store.commit(tx).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => continue,
            Err(other) => return Err(other.into()),
        }
        objects.delete_prefix(&format!("p/{project_id}/{file_id}/"), 1_000).await?;
        super::history::forget(store, project_id, file_id).await?;
        if let Some(tombstone) = tombstone {
            bury(store, vm, ambient, &tombstone).await?;
        }
        return Ok(());
    }
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
}

fn event_of<A: Ambient>(file: &ProjectFile, ambient: &A) -> NewEvent {
    let data = json!({"file_id": file.file_id, "path": file.path, "change": "deleted", "origin": "user"});
    NewEvent::new(EventType::FileChanged, ambient.now(), data)
}

/// Removes the VM's copy now if the VM is active; otherwise the tombstone waits for the next time both sides are made
/// equal.
async fn bury<S: WriteStore, V: VmFiles, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    tombstone: &Tombstone,
) -> AppResult<()> {
    let lease = lease::load(store, ambient, &tombstone.project_id).await?;
    let key = keys::file_tombstone(&tombstone.project_id, &tombstone.path);
    if lease.vm_id.as_ref() != Some(&tombstone.copy.vm_id) {
        // Another VM, or none: nobody has a copy.
        store.commit(Tx::new().remove(key)).await?;
        return Ok(());
    }
    let Some(ready) = ready::ready_of(&lease) else { return Ok(()) };
    // What the VM changed since, or moved there, is its own: it is kept, as a new file.
    let found = match super::sync::vm_hash(vm, &ready.vm_id, &tombstone.path).await {
        Err(error) if error.code == ErrorCode::VmNotReady => {
            let how = error.vm_error().unwrap_or(&VmError::Gone);
            lease::note_away(store, ambient, &tombstone.project_id, &ready.vm_id, how).await?;
            return Ok(());
        }
        found => found?,
    };
    match found {
        InVm::Hash(hash) if hash == tombstone.copy.sha256 => {}
        InVm::Hash(_) | InVm::Nothing | InVm::Other(_) => {
            store.commit(Tx::new().remove(key)).await?;
            return Ok(());
        }
    }
    match vm.remove(&ready.vm_id, &tombstone.path.in_vm(), "root").await {
        Ok(()) => store.commit(Tx::new().remove(key)).await.map(|_| ()).map_err(Into::into),
        Err(error @ (VmError::Gone | VmError::Paused)) => {
            lease::note_away(store, ambient, &tombstone.project_id, &ready.vm_id, &error).await.map(|_| ())
        }
        Err(error) => Err(error.into()),
    }
}
