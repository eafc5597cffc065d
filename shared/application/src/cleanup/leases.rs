//! Clean-up of one project's VM, by its lease.

use pvm_domain::command::CommandStatus;
use pvm_domain::ids::{CommandId, ProjectId};
use pvm_domain::limits;
use pvm_domain::vm::{VmLease, VmStatus};

use super::Counts;
use crate::commands;
use crate::error::{AppResult, ErrorCode};
use crate::files::save::Budget;
use crate::ports::{
    Ambient, ConnectVm, DeleteObject, EndVm, FindVm, GetObject, PutObject, RequestSave, RunCommands,
    StartExecution, VmError, VmFiles,
};
use crate::runs;
use crate::store::WriteStore;
use crate::vm::{end, lease, ready};

/// Looks at a lease that is due.
///
/// # Errors
/// Of the store, the provider or the VM; the next round looks again.
pub(super) async fn look<S, O, W, V, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    counts: &mut Counts,
) -> AppResult<()>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    W: StartExecution,
    V: ConnectVm + EndVm + FindVm + VmFiles + RunCommands,
    A: Ambient,
{
    // The index may lag: the lease itself decides.
    let lease = lease::load(store, ambient, project_id).await?;
    if lease.operation.is_some() {
        if !lease.is_busy_at(ambient.now()) {
            give_up(store, ambient, project_id).await?;
            counts.operations += 1;
        }
        return Ok(());
    }
    let lease = release_ended(store, objects, workflow, vm, ambient, lease, counts).await?;
    match (lease.state, lease.vm_id.as_deref()) {
        (VmStatus::Active | VmStatus::Failed, Some(vm_id)) => {
            running(store, objects, vm, ambient, &lease, vm_id, counts).await
        }
        (VmStatus::Paused, Some(vm_id)) => paused(store, workflow, vm, ambient, &lease, vm_id, counts).await,
        _ => Ok(()),
    }
}

/// A VM that is used is kept awake, and an idle one is paused. One whose set-up failed is never in use.
async fn running<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    lease: &VmLease,
    vm_id: &str,
    counts: &mut Counts,
) -> AppResult<()>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: ConnectVm + EndVm + FindVm + VmFiles + RunCommands,
    A: Ambient,
{
    let now = ambient.now();
    let (is_active, is_held) = (lease.state == VmStatus::Active, !lease.holders.is_empty());
    if is_active && is_held {
        counts.extended += 1;
        return extend(store, vm, ambient, lease, true).await;
    }
    let project_id = &lease.project_id;
    if lease.is_quiet_for(lease.idle_secs(), now) && !is_browsed(store, vm, ambient, lease, vm_id).await? {
        let left = end::pause_now(store, objects, vm, ambient, project_id, Budget::step()).await?;
        counts.paused += u32::from(left.state == VmStatus::Paused);
    } else if is_active && lease.needs_time_at(now) {
        counts.extended += 1;
        extend(store, vm, ambient, lease, false).await?;
    }
    Ok(())
}

/// Whether somebody used a port of the VM within its idle time, which its provider may know. That is noted as its last
/// use; and so is what else the provider says of it.
async fn is_browsed<S: WriteStore, V: FindVm, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    lease: &VmLease,
    vm_id: &str,
) -> AppResult<bool> {
    let Some(used) = vm.vm(vm_id).await?.and_then(|found| found.last_traffic) else { return Ok(false) };
    if used <= lease.last_activity {
        return Ok(false);
    }
    let noted = lease::change(store, ambient, &lease.project_id, |lease| {
        lease.last_activity = lease.last_activity.max(used);
        Ok(true)
    })
    .await?;
    Ok(!noted.is_quiet_for(noted.idle_secs(), ambient.now()))
}

/// A paused VM that somebody needs is resumed, one that nobody used for long is saved and ended; of any other it is made
/// sure that it is still there.
async fn paused<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    lease: &VmLease,
    vm_id: &str,
    counts: &mut Counts,
) -> AppResult<()>
where
    S: WriteStore,
    W: StartExecution,
    V: FindVm,
    A: Ambient,
{
    let (project_id, now) = (&lease.project_id, ambient.now());
    if !lease.holders.is_empty() {
        counts.operations += 1;
        return ready::setup(store, workflow, ambient, project_id).await.map(|_| ());
    }
    if lease.is_quiet_for(lease.paused_secs(), now) {
        counts.ended += 1;
        return end::teardown_now(store, workflow, ambient, project_id).await.map(|_| ());
    }
    if vm.vm(vm_id).await?.is_none() {
        return lease::note_gone(store, ambient, project_id, vm_id).await.map(|_| ());
    }
    let seen = lease::change(store, ambient, project_id, |lease| {
        lease.seen_at = Some(now);
        Ok(true)
    });
    seen.await.map(|_| ())
}

/// Drops holders that have ended: runs whose own release was lost, commands that nobody asked for since.
async fn release_ended<S, O, W, V, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    ambient: &A,
    lease: VmLease,
    counts: &mut Counts,
) -> AppResult<VmLease>
where
    S: WriteStore,
    O: PutObject,
    W: StartExecution,
    V: ConnectVm + RunCommands,
    A: Ambient,
{
    let mut over = Vec::new();
    for holder in &lease.holders {
        let ended = match holder.parse::<CommandId>() {
            Ok(id) => {
                let looked = command_ended(store, objects, workflow, vm, ambient, &lease.project_id, &id);
                // Trouble with one must not keep the VM from being looked after.
                looked.await.unwrap_or_else(|error| {
                    tracing::warn!(command.id = %id, error = ?error, "clean-up could not look at a command");
                    counts.errors += 1;
                    false
                })
            }
            Err(_) => runs::is_over(store, holder).await?,
        };
        if ended {
            over.push(holder.clone());
        }
    }
    if over.is_empty() {
        return Ok(lease);
    }
    lease::change(store, ambient, &lease.project_id, |lease| {
        lease.holders.retain(|holder| !over.contains(holder));
        Ok(true)
    })
    .await
}

/// Looks whether a command has ended, and notes its end.
async fn command_ended<S, O, W, V, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    command_id: &CommandId,
) -> AppResult<bool>
where
    S: WriteStore,
    O: PutObject,
    W: StartExecution,
    V: ConnectVm + RunCommands,
    A: Ambient,
{
    let command = match commands::load(store, project_id, command_id).await {
        Ok(command) => command,
        Err(error) if error.code == ErrorCode::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let wait = std::time::Duration::ZERO;
    let live = commands::drive(store, objects, workflow, vm, &SavedByPause, ambient, command, wait).await?;
    Ok(live.command.status != CommandStatus::Running)
}

/// The clean-up saves a workspace when it pauses its VM, so that it need not ask for it.
struct SavedByPause;

impl RequestSave for SavedByPause {
    async fn request_save(&self, _: &ProjectId) {}
}

/// Asks the provider to keep a VM awake: because it is used by those who hold it, or because its idle time is longer than
/// what a provider gives.
async fn extend<S: WriteStore, V: ConnectVm, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    lease: &VmLease,
    is_used: bool,
) -> AppResult<()> {
    let Some(ready) = ready::ready_of(lease) else { return Ok(()) };
    match vm.connect_vm(&ready.vm_id, limits::VM_TIMEOUT_SECS).await {
        Ok(_) => {
            lease::change(store, ambient, &lease.project_id, |lease| {
                let now = ambient.now();
                lease.kept_awake(now);
                if is_used {
                    lease.last_activity = now;
                }
                Ok(true)
            })
            .await?;
        }
        Err(VmError::Gone) => {
            lease::note_gone(store, ambient, &lease.project_id, &ready.vm_id).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// An operation that did not finish in its time: the lease goes free, and the next use starts a new one.
async fn give_up<S: WriteStore, A: Ambient>(store: &S, ambient: &A, project_id: &ProjectId) -> AppResult<()> {
    lease::change(store, ambient, project_id, |lease| {
        let overdue = lease.operation.is_some() && !lease.is_busy_at(ambient.now());
        if overdue {
            lease.finish(
                VmStatus::Failed,
                Some("The operation did not finish in its time; the next use tries again.".into()),
            );
            lease.last_activity = ambient.now();
        }
        Ok(overdue)
    })
    .await
    .map(|_| ())
}
