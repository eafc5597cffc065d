//! Clean-up by the clock: VMs that idle are paused, VMs paused for long are saved and ended, operations whose start or
//! end was lost are taken up again, deletions go on, VMs that nobody owns are ended, what was kept long enough goes
//! (uploads that never came, files that the VM deleted, old commands). One call does a bounded batch.

mod leases;
mod provider;

use jiff::SignedDuration;
use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::limits;
use pvm_domain::project::Project;
use pvm_domain::vm::{VmLease, VmStatus};

use crate::error::AppResult;
use crate::files;
use crate::keys;
use crate::ports::{
    Ambient, ConnectVm, DeleteObject, EndVm, FindVm, GetObject, PutObject, RunCommands, SendTask,
    StartExecution, UploadParts, VmFiles,
};
use crate::runs;
use crate::store::{Index, Listing, Record, WriteStore};
use crate::upkeep;
use crate::vm::{lease, ready};

/// Records looked at by one call, per shard.
const BATCH: u32 = 25;
/// Files whose uploads are given up, and deleted files that are forgotten, by one call, per shard.
const FILES: u32 = 100;

/// How long things are kept that nobody needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Ended commands with their whole output.
    pub commands: SignedDuration,
    /// Files that the VM deleted, with their versions.
    pub deleted_files: SignedDuration,
}

impl Kept {
    /// So many days; commands at least [`limits::COMMANDS_KEPT_MIN_DAYS`].
    pub fn days(commands: u64, deleted_files: u64) -> Self {
        // More than a century is for ever, and stays far from the end of the calendar.
        let days = |count: u64| SignedDuration::from_hours(count.min(36_500).cast_signed() * 24);
        Self {
            commands: days(commands.max(limits::COMMANDS_KEPT_MIN_DAYS)),
            deleted_files: days(deleted_files),
        }
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self::days(limits::COMMANDS_KEPT_DAYS, limits::DELETED_FILES_KEPT_DAYS)
    }
}

/// What a call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Idle VMs paused.
    pub paused: u32,
    /// VMs paused for long that are now being saved and ended.
    pub ended: u32,
    /// VMs in use that were given more time.
    pub extended: u32,
    /// Operations started again or given up.
    pub operations: u32,
    /// Deletions started again.
    pub deletions: u32,
    /// Runs that were overdue and looked after.
    pub runs: u32,
    /// VMs that no project owns, ended.
    pub strays: u32,
    /// Uploads that never came and were given up.
    pub uploads: u32,
    /// Files that the VM deleted long ago and that were forgotten.
    pub deleted_files: u32,
    /// Old commands removed with their output.
    pub commands: u32,
    /// Things that went wrong and are left to the next call.
    pub errors: u32,
}

/// One round.
///
/// # Errors
/// Of the store's listings; trouble with a single thing is counted and logged.
pub async fn sweep<S, O, W, V, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    ambient: &A,
    kept: &Kept,
) -> AppResult<Counts>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject + UploadParts,
    W: StartExecution + SendTask,
    V: ConnectVm + EndVm + FindVm + VmFiles + RunCommands,
    A: Ambient,
{
    let mut counts = Counts { runs: runs::sweep(store, workflow, vm, ambient).await?, ..Counts::default() };
    for lease in due::<VmLease, _, _>(store, ambient, keys::Sweep::Vm).await? {
        if let Err(error) =
            leases::look(store, objects, workflow, vm, ambient, &lease.project_id, &mut counts).await
        {
            tracing::warn!(project.id = %lease.project_id, error = ?error, "clean-up could not deal with a VM");
            counts.errors += 1;
        }
    }
    for project in due::<Project, _, _>(store, ambient, keys::Sweep::Deletion).await? {
        if let Err(error) = delete(store, workflow, ambient, &project.project_id).await {
            tracing::warn!(project.id = %project.project_id, error = ?error, "clean-up could not go on with a deletion");
            counts.errors += 1;
        } else {
            counts.deletions += 1;
        }
    }
    // "Unknown" is never taken for "none": without a certain listing nothing is ended.
    let ended = provider::reconcile(store, workflow, vm, ambient, &mut counts).await;
    counts.strays = counts.of("VMs of nobody", ended);
    let given_up = files::expire::sweep(store, objects, ambient, FILES).await;
    counts.uploads = counts.of("uploads that never came", given_up);
    let forgotten = files::deleted::sweep(store, objects, ambient, kept.deleted_files, FILES).await;
    counts.deleted_files = counts.of("deleted files", forgotten);
    let removed = upkeep::sweep(store, objects, ambient, kept.commands, BATCH).await;
    counts.commands = counts.of("old commands", removed);
    Ok(counts)
}

impl Counts {
    /// How many there were; a failure is counted and logged, and the other parts go on.
    fn of(&mut self, what: &str, outcome: AppResult<u32>) -> u32 {
        outcome.unwrap_or_else(|error| {
            tracing::warn!(what, error = ?error, "clean-up could not deal with a part");
            self.errors += 1;
            0
        })
    }
}

async fn due<R: Record, S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    sweep: keys::Sweep,
) -> AppResult<Vec<R>> {
    let mut found = Vec::new();
    for shard in 0..keys::SWEEP_SHARDS {
        let mut listing =
            Listing::of(keys::sweep_partition(sweep, shard), "").from_index(Index::Sweep).page(BATCH, None);
        listing.up_to = Some(keys::sweep_up_to(ambient.now()));
        found.extend(store.list::<R>(listing).await?.items);
    }
    Ok(found)
}

/// Starts the erasing of a marked project (again).
///
/// # Errors
/// Of the store or the workflow engine.
pub async fn delete<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<()> {
    let operation: OperationId = ambient.new_id();
    let lease = lease::change(store, ambient, project_id, |lease| {
        if lease.is_busy_at(ambient.now()) {
            return Ok(false);
        }
        lease.operation = None;
        lease.begin(operation.clone(), VmStatus::Stopping, ambient.now()).ok();
        Ok(true)
    })
    .await?;
    match lease.operation {
        Some(ours) if ours == operation => ready::start(workflow, project_id, "delete", &ours).await,
        _ => Ok(()),
    }
}
