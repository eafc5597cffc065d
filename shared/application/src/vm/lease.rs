//! Reading and changing a project's VM lease. Every change is conditional on the version read and is retried when
//! somebody else was faster, so that holders and activity never overwrite a lifecycle operation.

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::fair_use::OwnerLimits;
use pvm_domain::ids::ProjectId;
use pvm_domain::project::Project;
use pvm_domain::vm::{VmLease, VmStatus};
use serde_json::json;

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Clock, VmError};
use crate::store::{ReadStore, StoreError, Tx, WriteStore};

/// Tries before a change of the lease gives up: races are between a handful of commands and one operation.
const TRIES: u32 = 12;

/// The lease of a project; one that was never stored reads as `none`.
///
/// # Errors
/// Of the store.
pub async fn load(store: &impl ReadStore, clock: &impl Clock, project_id: &ProjectId) -> AppResult<VmLease> {
    let found = store.get(&keys::vm_lease(project_id)).await?;
    Ok(found.unwrap_or_else(|| VmLease::none(project_id.clone(), clock.now())))
}

/// The event that tells the lease's state.
pub fn state_event(lease: &VmLease, clock: &impl Clock) -> NewEvent {
    let data = json!({
        "vm_status": lease.state,
        "vm_id": lease.vm_id,
        "epoch": lease.epoch,
        "reason": lease.reason,
    });
    NewEvent::new(EventType::VmState, clock.now(), data)
}

/// Reads the lease, lets `change` work on it, and stores it together with a `vm.state` event where the state or epoch
/// changed. `change` answers `false` to leave everything as it is. It may be called several times.
///
/// # Errors
/// Of `change`, of the store, or `conflict` when others kept being faster.
pub async fn change<S: WriteStore, C: Clock>(
    store: &S,
    clock: &C,
    project_id: &ProjectId,
    change: impl FnMut(&mut VmLease) -> AppResult<bool> + Send,
) -> AppResult<VmLease> {
    change_within(store, clock, project_id, None, change).await
}

/// [`change`] that must not take the owner over a limit of fair use.
///
/// # Errors
/// As [`change`]; `limit_reached`.
pub async fn change_within<S: WriteStore, C: Clock>(
    store: &S,
    clock: &C,
    project_id: &ProjectId,
    limits: Option<&OwnerLimits>,
    mut change: impl FnMut(&mut VmLease) -> AppResult<bool> + Send,
) -> AppResult<VmLease> {
    for _ in 0..TRIES {
        let before = load(store, clock, project_id).await?;
        let mut lease = before.clone();
        if !change(&mut lease)? {
            return Ok(before);
        }
        if lease.owner.is_none() {
            let project: Option<Project> = store.get(&keys::project(project_id)).await?;
            lease.follow(&project.ok_or_else(|| AppError::not_found("project"))?);
        }
        if before.is_running() && !lease.is_running() {
            lease.active_secs = before.active_secs_at(clock.now());
            lease.started_at = None;
        }
        // A deleted project must not get a lease again: its META is the fence.
        let mut tx =
            Tx::new().require(keys::project(project_id), crate::store::Condition::Present).update(&mut lease);
        if lease.state != before.state || lease.epoch != before.epoch {
            tx = tx.append(&LogId::Project(project_id.clone()), state_event(&lease, clock));
        }
        if let Some(limits) = limits {
            tx = tx.within(limits);
        }
        match store.commit(tx).await {
            Ok(_) => return Ok(lease),
            Err(StoreError::Conflict { key }) if key == keys::vm_lease(project_id) => {}
            Err(StoreError::Conflict { .. }) => return Err(AppError::not_found("project")),
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "The VM's state keeps changing; try again in a moment."))
}

/// Notes that `holder` (a run or command id) needs the VM awake.
///
/// # Errors
/// Of the store.
pub async fn hold(
    store: &impl WriteStore,
    clock: &impl Clock,
    project_id: &ProjectId,
    holder: &str,
) -> AppResult<VmLease> {
    change(store, clock, project_id, |lease| {
        lease.last_activity = clock.now();
        Ok(lease.holders.insert(holder.to_owned()))
    })
    .await
}

/// Notes that `holder` needs the VM no more.
///
/// # Errors
/// Of the store.
pub async fn release(
    store: &impl WriteStore,
    clock: &impl Clock,
    project_id: &ProjectId,
    holder: &str,
) -> AppResult<()> {
    let released = change(store, clock, project_id, |lease| {
        lease.last_activity = clock.now();
        Ok(lease.holders.remove(holder))
    })
    .await;
    match released {
        // The project is being deleted: there is nothing left to hold.
        Err(error) if error.code == ErrorCode::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Notes that `vm_id` turned out to be gone, unless the lease has moved on to another VM meanwhile.
///
/// # Errors
/// Of the store.
pub async fn note_gone(
    store: &impl WriteStore,
    clock: &impl Clock,
    project_id: &ProjectId,
    vm_id: &str,
) -> AppResult<VmLease> {
    note_away(store, clock, project_id, vm_id, &VmError::Gone).await
}

/// What the lease says of a VM that its provider has no more, or has paused. Answers whether `error` tells of either.
pub(super) fn put_away(lease: &mut VmLease, error: &VmError) -> bool {
    match error {
        VmError::Gone => lease.lost("The VM was lost; the next use makes a new one and restores its files."),
        VmError::Paused => {
            lease.finish(VmStatus::Paused, Some("Its provider paused it; the next use resumes it.".into()));
        }
        _ => return false,
    }
    true
}

/// Notes what an error tells of `vm_id`, unless the lease has moved on meanwhile: one that is gone is lost; one that its
/// provider paused keeps its epoch, because its processes go on when it is resumed. Other errors tell nothing.
///
/// # Errors
/// Of the store.
pub async fn note_away(
    store: &impl WriteStore,
    clock: &impl Clock,
    project_id: &ProjectId,
    vm_id: &str,
    error: &VmError,
) -> AppResult<VmLease> {
    change(store, clock, project_id, |lease| {
        if lease.vm_id.as_deref() != Some(vm_id) || lease.is_busy_at(clock.now()) {
            return Ok(false);
        }
        let is_known = matches!(lease.state, VmStatus::Active | VmStatus::Failed);
        if matches!(error, VmError::Paused) && !is_known {
            return Ok(false);
        }
        Ok(put_away(lease, error))
    })
    .await
}
