//! Makes both sides of a workspace equal: what changed in the VM is stored, what changed in the store is written into
//! the VM, what changed on both sides is kept twice. Used after commands, before every pause and kill, and to restore
//! a new VM. Safe to repeat and to run beside uploads: every record changes on condition of its version.
//!
//! Work is done in groups: a group of small files is read, stored and committed together, a large file is a group of
//! its own. That bounds memory (a few groups at a time) and makes ten thousand small files a few hundred commits.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use pvm_domain::event::LogId;
use pvm_domain::file::{ProjectFile, SyncStatus, WorkspaceLink};
use pvm_domain::ids::{FileId, OwnerId, ProjectId};
use pvm_domain::project::Project;

use crate::error::{AppError, AppResult};
use crate::files::delete::Tombstone;
use crate::files::history;
use crate::files::plan::{FromVm, Plan, Seen, ToVm, plan};
use crate::files::unstored;
use crate::keys;
use crate::ports::{Ambient, DeleteObject, GetObject, PutObject, VmFiles};
use crate::store::{Listing, ReadStore, Record, StoreError, Tx, WriteStore};

/// Files of more bytes move alone, as streams.
pub(super) const SMALL: u64 = 1024 * 1024;
/// Bytes of a group of small files.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// Files of a group that the store gets: each makes up to four writes, and one commit takes a hundred.
const FROM_VM_FILES: usize = 20;
/// Files of a group that the VM gets: each makes one write.
const TO_VM_FILES: usize = 80;
/// Groups of small files that are under way at the same time.
const GROUPS: usize = 4;
/// Large files that are under way at the same time; each holds a part of an upload in memory.
const LARGE: usize = 2;

/// How much one call may do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Files to move at most.
    pub files: usize,
    /// Bytes to move, at most; one file may be larger.
    pub bytes: u64,
}

impl Budget {
    /// For callers without a time limit.
    pub fn unlimited() -> Self {
        Self { files: usize::MAX, bytes: u64::MAX }
    }

    /// What a Lambda step surely gets done in its time.
    pub fn step() -> Self {
        Self { files: 2_000, bytes: 2 * 1024 * 1024 * 1024 }
    }

    /// Takes a piece of work of so many bytes; false where it does not fit any more.
    fn take(&mut self, bytes: u64) -> bool {
        if self.files == 0 || self.bytes == 0 {
            return false;
        }
        self.files -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

/// What a call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Files, links and permission bits stored from the VM.
    pub saved: usize,
    /// Files, links and permission bits written into the VM.
    pub pushed: usize,
    /// Files and links that the VM deleted: the files can be had back for a while.
    pub forgotten: usize,
    /// Files that are elsewhere now.
    pub moved: usize,
    /// Files kept twice.
    pub conflicts: usize,
    /// What could not be written into the VM.
    pub failed: usize,
    /// Whether the budget ended before the work did.
    pub more: bool,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.saved += other.saved;
        self.pushed += other.pushed;
        self.forgotten += other.forgotten;
        self.moved += other.moved;
        self.conflicts += other.conflicts;
        self.failed += other.failed;
        self.more |= other.more;
    }

    /// Whether anything was changed on either side.
    pub fn is_quiet(&self) -> bool {
        *self == Self { failed: self.failed, ..Self::default() }
    }
}

/// All file records of a project.
///
/// # Errors
/// Of the store.
pub async fn records(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Vec<ProjectFile>> {
    all(store, project_id, "F#").await
}

/// All links of a project's workspace.
///
/// # Errors
/// Of the store.
pub async fn links(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Vec<WorkspaceLink>> {
    all(store, project_id, "LN#").await
}

async fn all<R: Record>(store: &impl ReadStore, project_id: &ProjectId, prefix: &str) -> AppResult<Vec<R>> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let listing = Listing::of(keys::project_partition(project_id), prefix);
        let page = store.list::<R>(listing.page(pvm_domain::limits::LIST_MAX, after)).await?;
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
    mut budget: Budget,
) -> AppResult<Outcome>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    // The records first: what is stored meanwhile is then not known here, and its condition fails, instead of being
    // taken for a file that the VM deleted.
    let (files, links, owner) = futures::try_join!(
        records(store, project_id),
        links(store, project_id),
        owner_of(store, project_id)
    )?;
    let mut seen = Seen::of(vm.scan_workspace(vm_id).await?);
    bury(store, vm, project_id, vm_id, &mut seen).await?;
    seen.unwatched = unwatched(vm, vm_id, &files, &seen).await?;
    let Plan { from_vm, mut to_vm, conflicts, blocked, unstored } = plan(files, links, seen, vm_id);
    unstored::note(store, ambient, project_id, unstored).await?;
    // What failed the last time goes last, so that it never keeps others from their turn.
    to_vm.sort_by_key(ToVm::is_retry);
    let mut outcome = Outcome::default();
    let side = Side { store, objects, vm, ambient, project_id, owner, vm_id };
    for (file, reason) in blocked {
        side.note_failure(file, reason).await?;
        outcome.failed += 1;
    }
    let (from_vm, cut) = within(from_vm, &mut budget, FromVm::bytes);
    outcome.more |= !cut.is_empty();
    let done = spread(from_vm, FROM_VM_FILES, FromVm::bytes, |group| side.store_group(group)).await?;
    outcome.add(done);
    for (file, size, mode) in conflicts {
        if !budget.take(size) {
            outcome.more = true;
            break;
        }
        outcome.add(side.keep_both(*file, mode).await?);
    }
    let (to_vm, cut) = within(to_vm, &mut budget, ToVm::bytes);
    outcome.more |= cut.iter().any(|work| !work.is_retry());
    let done = spread(to_vm, TO_VM_FILES, ToVm::bytes, |group| side.write_group(group)).await?;
    outcome.add(done);
    Ok(outcome)
}

/// Gives the VM what users stored or deleted after its files were restored and before it became active: their own writes
/// found no VM then. One that lacks nothing is not asked.
///
/// # Errors
/// As [`reconcile`].
pub async fn catch_up<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    vm_id: &str,
) -> AppResult<Outcome>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let (files, deleted) =
        futures::try_join!(records(store, project_id), all::<Tombstone>(store, project_id, "DEL#"))?;
    let lacks = |file: &ProjectFile| {
        let copy = file.vm_copy.as_ref().filter(|copy| copy.vm_id == vm_id);
        let same = copy.is_some_and(|copy| file.sha256.as_ref() == Some(&copy.sha256));
        let waits = match file.sync_status {
            SyncStatus::Pending => true,
            SyncStatus::Synced => !same,
            SyncStatus::Failed => false,
        };
        file.object_version > 0 && waits
    };
    if deleted.is_empty() && !files.iter().any(lacks) {
        return Ok(Outcome::default());
    }
    reconcile(store, objects, vm, ambient, project_id, vm_id, Budget::step()).await
}

async fn owner_of(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Option<OwnerId>> {
    let project: Option<Project> = store.get(&keys::project(project_id)).await?;
    Ok(project.map(|project| project.owner))
}

/// Of the files that the VM was given and that its scan does not show, those that are there all the same.
async fn unwatched(
    vm: &impl VmFiles,
    vm_id: &str,
    files: &[ProjectFile],
    seen: &Seen,
) -> AppResult<HashSet<String>> {
    let given = |file: &&ProjectFile| {
        let copy = file.vm_copy.as_ref().filter(|copy| copy.vm_id == vm_id);
        copy.is_some_and(|copy| file.sha256.as_ref() == Some(&copy.sha256))
    };
    let missing: Vec<String> = files
        .iter()
        .filter(|file| file.object_version > 0 && !seen.files.contains_key(file.path.as_str()))
        .filter(given)
        .map(|file| file.path.as_str().to_owned())
        .collect();
    if missing.is_empty() {
        return Ok(HashSet::new());
    }
    let present = vm.present(vm_id, &missing).await?;
    Ok(missing.into_iter().zip(present).filter_map(|(path, present)| present.then_some(path)).collect())
}

/// What fits into the budget, and the rest.
fn within<W>(mut work: Vec<W>, budget: &mut Budget, bytes: impl Fn(&W) -> u64) -> (Vec<W>, Vec<W>) {
    let fits = work.iter().take_while(|work| budget.take(bytes(work))).count();
    let rest = work.split_off(fits);
    (work, rest)
}

/// Works off groups: small ones together, large files beside them, few at a time.
async fn spread<W, F>(
    work: Vec<W>,
    most: usize,
    bytes: impl Fn(&W) -> u64,
    mut call: impl FnMut(Vec<W>) -> F,
) -> AppResult<Outcome>
where
    F: Future<Output = AppResult<Outcome>> + Send,
{
    let (mut small, mut large) = (Vec::new(), Vec::new());
    let (mut group, mut sum) = (Vec::new(), 0);
    for work in work {
        let size = bytes(&work);
        if size > SMALL {
            large.push(vec![work]);
            continue;
        }
        if group.len() == most || sum + size > GROUP_BYTES {
            small.push(std::mem::take(&mut group));
            sum = 0;
        }
        sum += size;
        group.push(work);
    }
    if !group.is_empty() {
        small.push(group);
    }
    let mut outcome = Outcome::default();
    for (groups, at_once) in [(small, GROUPS), (large, LARGE)] {
        let mut done = futures::stream::iter(groups.into_iter().map(&mut call)).buffer_unordered(at_once);
        while let Some(some) = done.try_next().await? {
            outcome.add(some);
        }
    }
    Ok(outcome)
}

/// Removes from the VM what users deleted while it could not be reached. What the VM changed since is kept, as new.
async fn bury<S: WriteStore, V: VmFiles>(
    store: &S,
    vm: &V,
    project_id: &ProjectId,
    vm_id: &str,
    seen: &mut Seen,
) -> AppResult<()> {
    for tombstone in all::<Tombstone>(store, project_id, "DEL#").await? {
        let path = tombstone.path.as_str();
        let same =
            seen.files.get(path).is_some_and(|entry| entry.sha256.as_deref() == Some(&tombstone.copy.sha256));
        if same && tombstone.copy.vm_id == vm_id {
            vm.remove(vm_id, &tombstone.path.in_vm(), "root").await?;
            seen.files.remove(path);
        }
        store.commit(Tx::new().remove(keys::file_tombstone(project_id, &tombstone.path))).await?;
    }
    Ok(())
}

/// Both sides of one workspace.
pub(super) struct Side<'a, S, O, V, A> {
    pub(super) store: &'a S,
    pub(super) objects: &'a O,
    pub(super) vm: &'a V,
    pub(super) ambient: &'a A,
    pub(super) project_id: &'a ProjectId,
    /// In whose name new files are counted.
    pub(super) owner: Option<OwnerId>,
    pub(super) vm_id: &'a str,
}

/// One piece of work that is ready to be committed.
pub(super) struct Piece {
    pub(super) tx: Tx,
    pub(super) counts: Outcome,
    /// The file that never was where it cannot be committed.
    pub(super) else_forget: Option<FileId>,
    /// The file that has a new version once it is committed.
    pub(super) then_prune: Option<Box<ProjectFile>>,
}

impl<S: WriteStore, O: DeleteObject, V, A> Side<'_, S, O, V, A>
where
    O: Sync,
    V: Sync,
    A: Sync,
{
    pub(super) fn log(&self) -> LogId {
        LogId::Project(self.project_id.clone())
    }

    /// Commits pieces together; where one of them is outdated, each by itself, and the outdated ones are left for the
    /// next call, which looks again.
    pub(super) async fn commit(&self, pieces: Vec<Piece>) -> AppResult<Outcome> {
        let mut outcome = Outcome::default();
        if pieces.is_empty() {
            return Ok(outcome);
        }
        let together = pieces.iter().fold(self.fenced(Tx::new()), |tx, piece| tx.and(piece.tx.clone()));
        let all = match self.store.commit(together).await {
            Ok(_) => true,
            Err(StoreError::Conflict { .. }) => false,
            Err(other) => return Err(other.into()),
        };
        for piece in pieces {
            let done = all || self.commit_one(piece.tx).await?;
            if done {
                outcome.add(piece.counts);
            }
            if let Some(file_id) = piece.else_forget.filter(|_| !done) {
                self.objects.delete_prefix(&format!("p/{}/{file_id}/", self.project_id), 1_000).await?;
                history::forget(self.store, self.project_id, &file_id).await?;
            }
            if let Some(file) = piece.then_prune.filter(|_| done) {
                history::prune(self.store, self.objects, &file).await?;
            }
        }
        Ok(outcome)
    }

    async fn commit_one(&self, tx: Tx) -> AppResult<bool> {
        match self.store.commit(self.fenced(tx)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(other) => Err::<bool, AppError>(other.into()),
        }
    }

    /// A deleted project must not get records again.
    fn fenced(&self, tx: Tx) -> Tx {
        tx.require(keys::project(self.project_id), crate::store::Condition::Present)
    }
}
