//! Store -> VM: works off the events that S3 sends when an object was made. Events come at least once and in any
//! order; the version in the object's key, which is made once, puts them right.

use futures::StreamExt;
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{
    FilePointer, FileVersion, OpenUpload, ProjectFile, Reconcile, SyncStatus, VmCopy, WorkspacePath,
    parse_object_key, reconcile as decide,
};
use pvm_domain::ids::ProjectId;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::{history, save, to_vm, upload};
use crate::keys;
use crate::ports::{Ambient, DeleteObject, GetObject, ObjectError, PutObject, VmError, VmFiles};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::{ReadyVm, lease, ready::ready_of};

/// Tries before an event whose file others keep changing is left to the queue.
const TRIES: u32 = 8;

/// One object-created event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectCreated {
    /// The object's key, decoded.
    pub key: String,
}

/// Notes that the object has arrived and, where the project's VM is active, writes it there. Duplicates, stale events,
/// events of other keys and of objects that nobody announced (the VM's own saves) are fine and do nothing.
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
    for _ in 0..TRIES {
        let pointer: Option<FilePointer> = store.get(&keys::file_pointer(&project_id, &file_id)).await?;
        let Some(pointer) = pointer else { return Ok(()) };
        let Some(mut file) = store.get::<ProjectFile>(&keys::file(&project_id, &pointer.path)).await? else {
            return Ok(());
        };
        if file.file_id != file_id {
            return Ok(());
        }
        let step = Step { store, objects, vm, ambient, project_id: &project_id };
        if version < file.object_version {
            match step.late(&mut file, version).await {
                Err(error) if error.code == ErrorCode::Conflict => continue,
                other => return other,
            }
        }
        let done = if version == file.object_version {
            if file.sync_status == SyncStatus::Synced {
                return Ok(());
            }
            step.push(&mut file, None).await
        } else {
            let Some(open) = file.uploads.iter().find(|open| open.version == version).cloned() else {
                return Ok(());
            };
            let Some(before) = step.arrive(&mut file, &open).await? else { return Ok(()) };
            if open.parts_id.is_some() {
                // It took a while to find out what it is: whoever is interrupted from here on need not do it again.
                match step.commit(&mut file, "uploaded", Some(before)).await {
                    Ok(()) => step.push(&mut file, None).await,
                    failed => failed,
                }
            } else {
                step.push(&mut file, Some(before)).await
            }
        };
        match done {
            Err(error) if error.code == ErrorCode::Conflict => {}
            Err(error) => return Err(error),
            Ok(()) => return history::prune(store, objects, &file).await,
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The file keeps changing; it is tried again."))
}

struct Step<'a, S, O, V, A> {
    store: &'a S,
    objects: &'a O,
    vm: &'a V,
    ambient: &'a A,
    project_id: &'a ProjectId,
}

impl<S, O, V, A> Step<'_, S, O, V, A>
where
    S: WriteStore,
    O: GetObject + PutObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    /// An announced upload is complete: takes size and hash over from the object. Answers the version before; `None`
    /// where the object is gone again or is not what was announced, which is noted with the file.
    async fn arrive(
        &self,
        file: &mut ProjectFile,
        open: &OpenUpload,
    ) -> AppResult<Option<Option<FileVersion>>> {
        let key = pvm_domain::file::object_key(&file.project_id, &file.file_id, open.version);
        let info = match self.objects.head(&key).await {
            Ok(info) => info,
            Err(ObjectError::NotFound) => {
                let reason =
                    "the upload was removed from the file store before it could be taken; upload it again";
                return self.refuse(file, open, reason.to_owned()).await.map(|()| None);
            }
            Err(error) => return Err(error.into()),
        };
        // The store has checked a hash that was signed with a whole upload. Of parts it knows none of the whole.
        let sha256 = match info.sha256.filter(|_| open.parts_id.is_none()) {
            Some(known) => known,
            None => self.hash(&key).await?,
        };
        if let Some(announced) = open.sha256.as_ref().filter(|announced| **announced != sha256) {
            self.objects.delete(&key).await?;
            let reason =
                format!("the bytes that arrived have the SHA-256 {sha256}, not {announced}; upload it again");
            return self.refuse(file, open, reason).await.map(|()| None);
        }
        Ok(Some(upload::arrived(file, open, info.size, sha256, self.ambient)))
    }

    /// An announced upload that others were faster than: a later upload, or a change in the VM that was saved meanwhile. It
    /// is kept as an earlier version, and told as a conflict.
    async fn late(&self, file: &mut ProjectFile, version: u64) -> AppResult<()> {
        let Some(open) = file.uploads.iter().find(|open| open.version == version).cloned() else {
            return Ok(());
        };
        let mut before = file.clone();
        let Some(_) = self.arrive(&mut before, &open).await? else { return Ok(()) };
        let Some(mut kept) = before.as_version() else { return Ok(()) };
        file.uploads.retain(|other| other.version != version);
        let data = json!({"file_id": file.file_id, "path": file.path, "kept_as_version": version});
        let event = NewEvent::new(EventType::FileConflict, self.ambient.now(), data);
        let log = LogId::Project(self.project_id.clone());
        let tx = Tx::new().update(file).create(&mut kept).append(&log, event);
        match self.store.commit(tx).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => {
                Err(AppError::new(ErrorCode::Conflict, "The file changed meanwhile."))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The upload failed for good. What the file had before stays.
    async fn refuse(&self, file: &mut ProjectFile, open: &OpenUpload, reason: String) -> AppResult<()> {
        file.uploads.retain(|other| other.version != open.version);
        if file.object_version == 0 {
            file.sync_status = SyncStatus::Failed;
        }
        file.sync_error = Some(reason);
        match self.commit(file, "upload_failed", None).await {
            // Somebody else looked at the same upload, or deleted the file.
            Err(error) if error.code == ErrorCode::Conflict => Ok(()),
            other => other,
        }
    }

    async fn hash(&self, key: &str) -> AppResult<String> {
        let (_, mut bytes) = self.objects.get_stream(key).await?;
        let mut hasher = Sha256::new();
        while let Some(chunk) = bytes.next().await {
            hasher.update(&chunk.map_err(|error| ObjectError::Unavailable(error.into()))?);
        }
        Ok(hex::encode(hasher.finalize()))
    }

    /// Writes the file into the project's VM, where it is active, and commits what became of it. `arrived` is the version
    /// before, where this event brought a new one.
    async fn push(&self, file: &mut ProjectFile, arrived: Option<Option<FileVersion>>) -> AppResult<()> {
        let Some(ready) = self.active().await? else {
            self.commit(file, "uploaded", arrived).await?;
            // Whoever made the VM active meanwhile has looked for such files before this one was noted, or sees it.
            return match self.active().await? {
                Some(ready) => self.push_into(&ready.vm_id, file, None).await,
                None => Ok(()),
            };
        };
        self.push_into(&ready.vm_id, file, arrived).await
    }

    async fn active(&self) -> AppResult<Option<ReadyVm>> {
        Ok(ready_of(&lease::load(self.store, self.ambient, self.project_id).await?))
    }

    async fn push_into(
        &self,
        vm_id: &str,
        file: &mut ProjectFile,
        arrived: Option<Option<FileVersion>>,
    ) -> AppResult<()> {
        let mut outcome = Ok(());
        let mut conflict = false;
        match self.write(vm_id, file).await {
            Ok(Written::Equal) => {
                let sha256 = file.sha256.clone().unwrap_or_default();
                file.vm_copy = Some(VmCopy { vm_id: vm_id.to_owned(), sha256, mode: Some(file.mode) });
                file.sync_status = SyncStatus::Synced;
                file.sync_error = None;
            }
            // Both sides changed: note what has arrived, then let the whole-workspace pass keep both.
            Ok(Written::Changed) => conflict = true,
            Ok(Written::Failed(reason)) => {
                file.sync_status = SyncStatus::Failed;
                file.sync_error = Some(reason);
            }
            Err(error) if error.code == ErrorCode::VmNotReady => {
                let how = error.vm_error().unwrap_or(&VmError::Gone);
                lease::note_away(self.store, self.ambient, self.project_id, vm_id, how).await?;
            }
            // What has arrived is noted all the same; the event comes again.
            Err(error) => outcome = Err(error),
        }
        self.commit(file, "uploaded", arrived).await?;
        if conflict {
            let budget = save::Budget::step();
            save::reconcile(self.store, self.objects, self.vm, self.ambient, self.project_id, vm_id, budget)
                .await?;
        }
        outcome
    }

    /// Writes the file unless the VM has changes of its own.
    async fn write(&self, vm_id: &str, file: &ProjectFile) -> AppResult<Written> {
        let stored = file.sha256.clone().unwrap_or_default();
        let base = file.vm_copy.as_ref().filter(|copy| copy.vm_id == vm_id).map(|copy| copy.sha256.clone());
        let in_vm = match vm_hash(self.vm, vm_id, &file.path).await? {
            InVm::Nothing => None,
            InVm::Hash(hash) => Some(hash),
            InVm::Other(what) => {
                return Ok(Written::Failed(format!(
                    "there is a {what} at this path in the VM; move one of the two"
                )));
            }
        };
        match decide(&stored, in_vm.as_deref(), base.as_deref()) {
            Reconcile::Save | Reconcile::Conflict => Ok(Written::Changed),
            // An upload means to put the file there, also where the VM had deleted it. Equal bytes are written too: the
            // permission bits may differ.
            Reconcile::Equal | Reconcile::Push | Reconcile::Forget => {
                let entry = match to_vm::entry(self.objects, file).await? {
                    Ok(entry) => entry,
                    Err(reason) => return Ok(Written::Failed(reason)),
                };
                let failures = self.vm.write_many(vm_id, vec![entry]).await?;
                Ok(failures.into_iter().next().flatten().map_or(Written::Equal, Written::Failed))
            }
        }
    }

    async fn commit(
        &self,
        file: &mut ProjectFile,
        change: &str,
        arrived: Option<Option<FileVersion>>,
    ) -> AppResult<()> {
        let data = json!({
            "file_id": file.file_id, "path": file.path, "size": file.size, "sha256": file.sha256,
            "sync_status": file.sync_status, "reason": file.sync_error, "change": change, "origin": "user",
        });
        let event = NewEvent::new(EventType::FileChanged, self.ambient.now(), data);
        let mut tx = Tx::new().update(file).append(&LogId::Project(self.project_id.clone()), event);
        if let Some(mut before) = arrived.flatten() {
            tx = tx.create(&mut before);
        }
        match self.store.commit(tx).await {
            Ok(_) => Ok(()),
            Err(StoreError::Conflict { .. }) => {
                Err(AppError::new(ErrorCode::Conflict, "The file changed meanwhile."))
            }
            Err(other) => Err(other.into()),
        }
    }
}

/// How the VM stands after a try to write a file.
enum Written {
    /// It has the stored bytes.
    Equal,
    /// It has bytes of its own.
    Changed,
    /// It cannot have them, for this reason.
    Failed(String),
}

/// What a VM has at a file's path.
pub(super) enum InVm {
    Nothing,
    Hash(String),
    /// No regular file.
    Other(&'static str),
}

/// What a VM has at a path.
///
/// # Errors
/// Of the VM.
pub(super) async fn vm_hash(vm: &impl VmFiles, vm_id: &str, path: &WorkspacePath) -> AppResult<InVm> {
    use crate::ports::EntryKind;
    let path = path.in_vm();
    match vm.stat(vm_id, &path, "root").await {
        Ok(Some(entry)) if entry.kind == EntryKind::Directory => return Ok(InVm::Other("folder")),
        // A link is replaced, not followed.
        Ok(Some(entry)) if entry.kind == EntryKind::File => {}
        Ok(_) => return Ok(InVm::Nothing),
        // A folder of the path is a file.
        Err(VmError::Refused(_)) => return Ok(InVm::Nothing),
        Err(error) => return Err(error.into()),
    }
    let (_, mut bytes) = match vm.read_file_stream(vm_id, &path, "root").await {
        Ok(found) => found,
        Err(VmError::NotFound(_)) => return Ok(InVm::Nothing),
        Err(error) => return Err(error.into()),
    };
    let mut hasher = Sha256::new();
    while let Some(chunk) = bytes.next().await {
        hasher.update(&chunk.map_err(|error| VmError::Unavailable(error.into()))?);
    }
    Ok(InVm::Hash(hex::encode(hasher.finalize())))
}
