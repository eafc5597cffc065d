//! Pausing and ending a VM. Its workspace is saved first; a save that fails stops the pause, so that nothing is lost.

use pvm_domain::Timestamp;
use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::vm::{VmLease, VmStatus};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::save;
use crate::ports::{
    Ambient, DeleteObject, EndVm, GetObject, PutObject, RunCommands, StartExecution, VmError, VmFiles,
};
use crate::store::WriteStore;
use crate::vm::{lease, ready};

/// Saves the workspace and pauses the VM. One that is paused or absent is left as it is.
///
/// # Errors
/// `conflict` while something is using it or another operation is under way.
pub async fn pause<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<VmLease>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: EndVm + VmFiles + RunCommands,
    A: Ambient,
{
    authorize(store, principal, project_id, Scope::Write).await?;
    let lease = lease::load(store, ambient, project_id).await?;
    if !lease.holders.is_empty() {
        return Err(AppError::new(
            ErrorCode::Conflict,
            "A run or command is using the VM; cancel it or wait for its end, then pause.",
        ));
    }
    pause_now(store, objects, vm, ambient, project_id, save::Budget::unlimited()).await
}

/// [`pause`] for the clean-up, which has looked at the holders itself. A workspace that does not fit into `budget` is saved
/// as far as it does, and its VM stays as it is until the next call. A VM whose set-up failed is paused like any other.
///
/// # Errors
/// As [`pause`].
pub async fn pause_now<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    budget: save::Budget,
) -> AppResult<VmLease>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: EndVm + VmFiles + RunCommands,
    A: Ambient,
{
    let operation: OperationId = ambient.new_id();
    let mut before = VmStatus::Active;
    let lease = lease::change(store, ambient, project_id, |lease| {
        if !can_be_paused(lease) {
            return Ok(false);
        }
        before = lease.state;
        lease
            .begin(operation.clone(), VmStatus::Stopping, ambient.now())
            .map_err(|busy| AppError::new(ErrorCode::Conflict, busy.to_string()))?;
        Ok(true)
    })
    .await?;
    let Some(vm_id) = lease.vm_id.clone().filter(|_| lease.operation.as_ref() == Some(&operation)) else {
        return Ok(lease);
    };
    let paused = async {
        let saved = save::reconcile(store, objects, vm, ambient, project_id, &vm_id, budget).await?;
        if saved.more {
            return Ok(false);
        }
        vm.pause_vm(&vm_id).await?;
        Ok::<_, AppError>(true)
    }
    .await;
    let lease = lease::change(store, ambient, project_id, |lease| {
        let ours = lease.operation.as_ref() == Some(&operation);
        if ours {
            after_pause(lease, before, &paused, ambient.now());
        }
        Ok(ours)
    })
    .await?;
    match paused {
        Err(error) if !matches!(error.vm_error(), Some(VmError::Gone | VmError::Paused)) => Err(error),
        _ => Ok(lease),
    }
}

fn can_be_paused(lease: &VmLease) -> bool {
    let failed = lease.state == VmStatus::Failed && lease.vm_id.is_some() && lease.operation.is_none();
    failed || ready::ready_of(lease).is_some()
}

/// The state of a VM after a try to pause it.
fn after_pause(lease: &mut VmLease, before: VmStatus, paused: &AppResult<bool>, now: Timestamp) {
    match paused {
        Ok(true) => lease.finish(VmStatus::Paused, None),
        // There is more to save: the next call goes on, so its clock stays as it is.
        Ok(false) => return lease.finish(before, None),
        Err(error) => {
            let is_away = error.vm_error().is_some_and(|away| lease::put_away(lease, away));
            if !is_away {
                lease.finish(before, Some(format!("It could not be paused: {}", error.detail)));
            }
        }
    }
    lease.last_activity = now;
}

/// Asks for the VM to be saved and ended; the project stays. One that is absent is left so.
///
/// # Errors
/// `conflict` while another operation is under way.
pub async fn teardown<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<VmLease> {
    authorize(store, principal, project_id, Scope::Write).await?;
    teardown_now(store, workflow, ambient, project_id).await
}

/// [`teardown`] for the clean-up.
///
/// # Errors
/// As [`teardown`].
pub async fn teardown_now<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<VmLease> {
    let operation: OperationId = ambient.new_id();
    let lease = lease::change(store, ambient, project_id, |lease| {
        let nothing = lease.vm_id.is_none() && lease.operation.is_none();
        if nothing || (lease.state == VmStatus::Stopping && lease.is_busy_at(ambient.now())) {
            return Ok(false);
        }
        lease.begin(operation.clone(), VmStatus::Stopping, ambient.now()).map_err(|_| {
            AppError::new(ErrorCode::Conflict, "The VM is being set up; end it when that is done.")
        })?;
        Ok(true)
    })
    .await?;
    if let (Some(operation), VmStatus::Stopping) = (&lease.operation, lease.state) {
        ready::start(workflow, project_id, "teardown", operation).await?;
    }
    Ok(lease)
}

/// Step of a teardown: saves the workspace. A VM that is gone or cannot be woken has nothing left to save.
///
/// # Errors
/// Of the store, the objects or the VM. Answers whether there is more to save.
pub async fn save_step<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
    budget: save::Budget,
) -> AppResult<bool>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: crate::ports::ConnectVm + VmFiles + RunCommands,
    A: Ambient,
{
    let (lease, ready) = crate::vm::provision::of_operation(store, ambient, project_id, operation).await?;
    let Some(ready) = ready else { return Ok(false) };
    match vm.connect_vm(&ready.vm_id, pvm_domain::limits::VM_TIMEOUT_SECS).await {
        Ok(_) => {}
        Err(VmError::Gone) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let saved = save::reconcile(store, objects, vm, ambient, project_id, &ready.vm_id, budget).await;
    match saved {
        Ok(done) => Ok(done.more),
        Err(error) if error.code == ErrorCode::VmNotReady => {
            tracing::warn!(project.id = %project_id, epoch = lease.epoch, "the VM went away before it could be saved");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Last step of a teardown: ends the VM and gives the lease back.
///
/// # Errors
/// Of the provider or the store.
pub async fn kill_step<S: WriteStore, V: EndVm + crate::ports::FindVm, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
) -> AppResult<()> {
    let (_, ready) = crate::vm::provision::of_operation(store, ambient, project_id, operation).await?;
    if let Some(ready) = ready {
        vm.kill_vm(&ready.vm_id).await?;
    }
    // VMs whose creation was never noted carry the project's id all the same.
    for stray in vm.vms(Some(project_id.as_str())).await? {
        vm.kill_vm(&stray.vm_id).await?;
    }
    let ended = lease::change(store, ambient, project_id, |lease| {
        let ours = lease.operation.as_ref() == Some(operation);
        if ours {
            lease.finish(VmStatus::None, None);
            lease.holders.clear();
        }
        Ok(ours)
    })
    .await;
    match ended {
        Err(error) if error.code == ErrorCode::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}
