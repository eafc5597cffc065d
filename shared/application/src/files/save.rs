//! Makes both sides of a workspace equal: what changed in the VM is stored, what changed in the store is written into
//! the VM, what changed on both sides is kept twice. Used after commands, before every pause and kill, and to restore
//! a new VM. Safe to repeat and to run beside uploads: every record changes on condition of its version.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, TryStreamExt};
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{
    FilePointer, ProjectFile, Reconcile, SyncStatus, VmCopy, WorkspacePath, object_key, reconcile as decide,
};
use pvm_domain::ids::{FileId, ProjectId};
use serde_json::json;

use crate::error::AppResult;
use crate::files::delete::Tombstone;
use crate::keys;
use crate::ports::{Ambient, DeleteObject, EntryKind, GetObject, PutObject, VmEntry, VmError, VmFiles};
use crate::store::{Listing, ReadStore, StoreError, Tx, WriteStore};

/// Files worked on at the same time: hides round trips, keeps memory bounded.
const PARALLEL: usize = 16;

/// How much one call may do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Files to move at most.
    pub files: usize,
}

impl Budget {
    /// For callers without a time limit.
    pub fn unlimited() -> Self {
        Self { files: usize::MAX }
    }

    /// What a Lambda step surely gets done in its time.
    pub fn step() -> Self {
        Self { files: 2_000 }
    }
}

/// What a call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Files stored from the VM.
    pub saved: usize,
    /// Files written into the VM.
    pub pushed: usize,
    /// Records removed because the VM deleted the file.
    pub forgotten: usize,
    /// Files kept twice.
    pub conflicts: usize,
    /// Whether the budget ended before the work did.
    pub more: bool,
}

enum Work {
    Existing { file: Box<ProjectFile>, vm_hash: Option<String>, mode: Option<u32>, action: Reconcile },
    New { entry: VmEntry, path: WorkspacePath },
}

/// All file records of a project.
///
/// # Errors
/// Of the store.
pub async fn records(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Vec<ProjectFile>> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let listing = Listing::of(keys::project_partition(project_id), "F#");
        let page = store.list::<ProjectFile>(listing.page(pvm_domain::limits::LIST_MAX, after)).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

/// Makes the workspace of `vm_id` and the stored files equal.
///
/// # Errors
/// Of the store, the objects or the VM. What was done stays done; the next call goes on.
pub async fn reconcile<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    vm_id: &str,
    budget: Budget,
) -> AppResult<Outcome>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let (files, entries) = (records(store, project_id).await?, vm.scan_workspace(vm_id).await?);
    let mut in_vm: HashMap<String, VmEntry> = entries
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File)
        .map(|entry| (entry.path.clone(), entry))
        .collect();
    bury(store, vm, project_id, vm_id, &mut in_vm).await?;
    let mut work = Vec::new();
    let mut known = HashSet::new();
    for file in files {
        known.insert(file.path.as_str().to_owned());
        let entry = in_vm.remove(file.path.as_str());
        let Some(stored) = file.sha256.clone().filter(|_| file.object_version > 0) else { continue };
        let vm_hash = entry.as_ref().and_then(|entry| entry.sha256.clone());
        let base = file.vm_copy.as_ref().filter(|copy| copy.vm_id == vm_id).map(|copy| copy.sha256.clone());
        let action = decide(&stored, vm_hash.as_deref(), base.as_deref());
        let noted = file.sync_status == SyncStatus::Synced && base.as_deref() == Some(stored.as_str());
        if action != Reconcile::Equal || !noted {
            let mode = entry.map(|entry| entry.mode);
            work.push(Work::Existing { file: Box::new(file), vm_hash, mode, action });
        }
    }
    for (path, entry) in in_vm {
        if known.contains(&path) {
            continue;
        }
        match WorkspacePath::parse("path", &path) {
            Ok(path) => work.push(Work::New { entry, path }),
            Err(error) => {
                tracing::warn!(project.id = %project_id, %error, "a file in the VM cannot be saved")
            }
        }
    }
    let more = work.len() > budget.files;
    work.truncate(budget.files);
    let counts: [AtomicUsize; 4] = Default::default();
    let side = Side { store, objects, vm, ambient, project_id, vm_id };
    futures::stream::iter(work)
        .map(Ok::<_, crate::error::AppError>)
        .try_for_each_concurrent(PARALLEL, |work| {
            let (side, counts) = (&side, &counts);
            async move {
                let place = match side.work_off(work).await? {
                    Some(Reconcile::Save) => 0,
                    Some(Reconcile::Push) => 1,
                    Some(Reconcile::Forget) => 2,
                    Some(Reconcile::Conflict) => 3,
                    Some(Reconcile::Equal) | None => return Ok(()),
                };
                counts[place].fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        })
        .await?;
    let [saved, pushed, forgotten, conflicts] = counts.map(AtomicUsize::into_inner);
    Ok(Outcome { saved, pushed, forgotten, conflicts, more })
}

/// Removes from the VM what users deleted while it could not be reached. What the VM changed since is kept, as new.
async fn bury<S: WriteStore, V: VmFiles>(
    store: &S,
    vm: &V,
    project_id: &ProjectId,
    vm_id: &str,
    in_vm: &mut HashMap<String, VmEntry>,
) -> AppResult<()> {
    let listing = Listing::of(keys::project_partition(project_id), "DEL#");
    for tombstone in store.list::<Tombstone>(listing).await?.items {
        let path = tombstone.path.as_str();
        let same =
            in_vm.get(path).is_some_and(|entry| entry.sha256.as_deref() == Some(&tombstone.copy.sha256));
        if same && tombstone.copy.vm_id == vm_id {
            vm.remove(vm_id, &tombstone.path.in_vm(), "root").await?;
            in_vm.remove(path);
        }
        store.commit(Tx::new().remove(keys::file_tombstone(project_id, &tombstone.path))).await?;
    }
    Ok(())
}

struct Side<'a, S, O, V, A> {
    store: &'a S,
    objects: &'a O,
    vm: &'a V,
    ambient: &'a A,
    project_id: &'a ProjectId,
    vm_id: &'a str,
}

impl<S, O, V, A> Side<'_, S, O, V, A>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    /// Does one piece of work; `None` where somebody else changed the record meanwhile and the next call looks again.
    async fn work_off(&self, work: Work) -> AppResult<Option<Reconcile>> {
        match work {
            Work::New { entry, path } => self.save_new(&entry, path).await,
            Work::Existing { mut file, vm_hash, mode, action } => match action {
                Reconcile::Equal => {
                    let sha256 = vm_hash.unwrap_or_default();
                    self.note_equal(&mut file, sha256, None).await.map(|done| done.then_some(action))
                }
                Reconcile::Push => self.push(&mut file).await.map(|done| done.then_some(action)),
                Reconcile::Save => self.save(&mut file, mode).await.map(|done| done.then_some(action)),
                Reconcile::Forget => self.forget(&file).await.map(|done| done.then_some(action)),
                Reconcile::Conflict => self.keep_both(&mut file).await.map(|done| done.then_some(action)),
            },
        }
    }

    fn changed(&self, file: &ProjectFile, change: &str) -> NewEvent {
        let data = json!({
            "file_id": file.file_id, "path": file.path, "size": file.size, "sha256": file.sha256,
            "change": change, "origin": "vm",
        });
        NewEvent::new(EventType::FileChanged, self.ambient.now(), data)
    }

    async fn commit(&self, tx: Tx) -> AppResult<bool> {
        match self.store.commit(tx).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    fn log(&self) -> LogId {
        LogId::Project(self.project_id.clone())
    }

    async fn note_equal(
        &self,
        file: &mut ProjectFile,
        sha256: String,
        event: Option<NewEvent>,
    ) -> AppResult<bool> {
        file.vm_copy = Some(VmCopy { vm_id: self.vm_id.to_owned(), sha256 });
        file.sync_status = SyncStatus::Synced;
        file.sync_error = None;
        let mut tx = Tx::new().update(file);
        if let Some(event) = event {
            tx = tx.append(&self.log(), event);
        }
        self.commit(tx).await
    }

    async fn push(&self, file: &mut ProjectFile) -> AppResult<bool> {
        match push_file(self.objects, self.vm, self.vm_id, file).await {
            Ok(()) => {
                let sha256 = file.sha256.clone().unwrap_or_default();
                self.note_equal(file, sha256, None).await
            }
            Err(error) => {
                file.sync_status = SyncStatus::Failed;
                file.sync_error = Some(error.detail.clone());
                self.commit(Tx::new().update(file)).await?;
                match error.code {
                    // One file that cannot be written (a directory in its place, say) must not stop the others.
                    crate::error::ErrorCode::VmFailed | crate::error::ErrorCode::NotFound => Ok(false),
                    _ => Err(error),
                }
            }
        }
    }

    /// Stores the VM's bytes under the next version's key; `None` where the file went away meanwhile.
    async fn store_bytes(
        &self,
        path: &WorkspacePath,
        file: &FileId,
        version: u64,
    ) -> AppResult<Option<(u64, String)>> {
        let read = self.vm.read_file_stream(self.vm_id, &path.in_vm(), "root").await;
        let (_, bytes) = match read {
            Ok(found) => found,
            Err(VmError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let info = self.objects.put_stream(&object_key(self.project_id, file, version), bytes).await?;
        Ok(Some((info.size, info.sha256.unwrap_or_default())))
    }

    async fn save(&self, file: &mut ProjectFile, mode: Option<u32>) -> AppResult<bool> {
        let version = next_version(file);
        let Some((size, sha256)) = self.store_bytes(&file.path, &file.file_id, version).await? else {
            return Ok(false);
        };
        file.object_version = version;
        file.size = size;
        file.sha256 = Some(sha256.clone());
        file.mode = mode.unwrap_or(file.mode);
        file.updated_at = self.ambient.now();
        let event = self.changed(file, "modified");
        self.note_equal(file, sha256, Some(event)).await
    }

    async fn save_new(&self, entry: &VmEntry, path: WorkspacePath) -> AppResult<Option<Reconcile>> {
        let file_id: FileId = self.ambient.new_id();
        let Some((size, sha256)) = self.store_bytes(&path, &file_id, 1).await? else { return Ok(None) };
        let now = self.ambient.now();
        let mut file = ProjectFile {
            project_id: self.project_id.clone(),
            file_id: file_id.clone(),
            path: path.clone(),
            size,
            sha256: Some(sha256.clone()),
            mode: entry.mode,
            object_version: 1,
            upload_version: None,
            sequencer: None,
            sync_status: SyncStatus::Synced,
            sync_error: None,
            vm_copy: Some(VmCopy { vm_id: self.vm_id.to_owned(), sha256 }),
            created_at: now,
            updated_at: now,
            version: 0,
        };
        let mut pointer =
            FilePointer { project_id: self.project_id.clone(), file_id: file_id.clone(), path, version: 0 };
        let event = self.changed(&file, "created");
        let tx = Tx::new()
            .require(keys::project(self.project_id), crate::store::Condition::Present)
            .create(&mut file)
            .create(&mut pointer)
            .append(&self.log(), event);
        if self.commit(tx).await? {
            return Ok(Some(Reconcile::Save));
        }
        self.objects.delete(&object_key(self.project_id, &file_id, 1)).await?;
        Ok(None)
    }

    async fn forget(&self, file: &ProjectFile) -> AppResult<bool> {
        let tx = Tx::new()
            .delete(file)
            .remove(keys::file_pointer(self.project_id, &file.file_id))
            .append(&self.log(), self.changed(file, "deleted"));
        let done = self.commit(tx).await?;
        if done {
            let prefix = format!("p/{}/{}/", self.project_id, file.file_id);
            self.objects.delete_prefix(&prefix, 1_000).await?;
        }
        Ok(done)
    }

    /// Moves the VM's bytes aside under a name that says so, stores them as a file of their own, then writes the stored
    /// object: the store wins the path, and nothing is lost.
    async fn keep_both(&self, file: &mut ProjectFile) -> AppResult<bool> {
        let aside =
            WorkspacePath::parse("path", &format!("{}.vm-{}", file.path, self.ambient.now().as_second()))?;
        let (size, bytes) = match self.vm.read_file_stream(self.vm_id, &file.path.in_vm(), "root").await {
            Ok(found) => found,
            Err(VmError::NotFound(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.vm.write_file_stream(self.vm_id, &aside.in_vm(), "user", size, bytes).await?;
        if let Some(entry) = self.vm.stat(self.vm_id, &aside.in_vm(), "root").await? {
            self.save_new(&entry, aside.clone()).await?;
        }
        push_file(self.objects, self.vm, self.vm_id, file).await?;
        let data = json!({"file_id": file.file_id, "path": file.path, "kept_as": aside});
        let event = NewEvent::new(EventType::FileConflict, self.ambient.now(), data);
        let sha256 = file.sha256.clone().unwrap_or_default();
        self.note_equal(file, sha256, Some(event)).await
    }
}

/// The object version that the next change of a file gets: above the current one and above an open upload's.
pub fn next_version(file: &ProjectFile) -> u64 {
    file.object_version.max(file.upload_version.unwrap_or(0)) + 1
}

/// Writes the current stored bytes of a file into the VM.
///
/// # Errors
/// Of the objects or the VM.
pub async fn push_file(
    objects: &impl GetObject,
    vm: &impl VmFiles,
    vm_id: &str,
    file: &ProjectFile,
) -> AppResult<()> {
    let (size, bytes) = objects.get_stream(&file.object_key(file.object_version)).await?;
    Ok(vm.write_file_stream(vm_id, &file.path.in_vm(), "user", size, bytes).await?)
}
