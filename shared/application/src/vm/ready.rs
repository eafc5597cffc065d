//! Getting a project's VM ready: at once where it is active, else by one `vm-lifecycle` execution that everybody who
//! asks meanwhile waits for.

use std::time::Duration;

use pvm_domain::event::LogId;
use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::vm::{VmLease, VmStatus};
use serde_json::json;

use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::ports::{Ambient, ConnectVm, Machine, StartExecution};
use crate::store::WriteStore;
use crate::vm::lease;

/// The lease's `last_activity` is written at most this often: it only feeds the idle clock.
pub(crate) const TOUCH_SECS: i64 = 60;

/// A VM that is ready to work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyVm {
    /// The provider's id.
    pub vm_id: String,
    /// The epoch that its commands belong to.
    pub epoch: u64,
    /// Its boot id when it was readied.
    pub boot_id: String,
}

/// The lease's VM, if it is ready.
pub fn ready_of(lease: &VmLease) -> Option<ReadyVm> {
    match (&lease.state, &lease.vm_id, &lease.boot_id, &lease.operation) {
        (VmStatus::Active, Some(vm_id), Some(boot_id), None) => {
            Some(ReadyVm { vm_id: vm_id.clone(), epoch: lease.epoch, boot_id: boot_id.clone() })
        }
        _ => None,
    }
}

/// Asks for the VM to be set up: starts one lifecycle operation, or joins the one under way. Answers the lease as it
/// stands; an active VM is left alone.
///
/// # Errors
/// Of the store or the workflow engine.
pub async fn setup<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<VmLease> {
    let operation: OperationId = ambient.new_id();
    let limits = fair_use::limits_of_project(store, project_id).await?;
    let lease = lease::change_within(store, ambient, project_id, Some(&limits), |lease| {
        if lease.is_busy_at(ambient.now()) || ready_of(lease).is_some() {
            return Ok(false);
        }
        lease
            .begin(operation.clone(), VmStatus::Starting, ambient.now())
            .map_err(|busy| AppError::new(ErrorCode::Conflict, busy.to_string()))?;
        Ok(true)
    })
    .await?;
    // Also where the operation was there before: its start may have been lost after its commit, and starting a name
    // again starts nothing twice.
    if let (Some(operation), VmStatus::Starting) = (&lease.operation, lease.state) {
        start(workflow, project_id, "setup", operation).await?;
    }
    Ok(lease)
}

/// Starts the execution of a lifecycle operation; its name is the operation's id.
///
/// # Errors
/// Of the workflow engine.
pub async fn start(
    workflow: &impl StartExecution,
    project_id: &ProjectId,
    action: &str,
    operation: &OperationId,
) -> AppResult<()> {
    let input = json!({"project_id": project_id, "action": action, "operation_id": operation});
    workflow.start(Machine::VmLifecycle, operation.as_str(), &input).await?;
    Ok(())
}

/// The project's VM, ready to work, within `within`.
///
/// # Errors
/// `vm_not_ready` with the reason where the set-up failed or takes longer; it goes on, and asking again joins it.
pub async fn ready<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    vm: &impl ConnectVm,
    ambient: &A,
    project_id: &ProjectId,
    within: Duration,
) -> AppResult<ReadyVm> {
    let lease = lease::load(store, ambient, project_id).await?;
    ready_from(store, workflow, vm, ambient, lease, within).await
}

/// Whether the last set-up of the project's VM failed by something that the next one would meet again.
///
/// # Errors
/// `not_found`; of the store.
pub async fn is_refused<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<bool> {
    let lease = lease::load(store, ambient, project_id).await?;
    Ok(lease.state == VmStatus::Failed && lease.refused)
}

/// [`ready`] for a caller that has just read the lease.
///
/// # Errors
/// As [`ready`].
pub async fn ready_from<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    vm: &impl ConnectVm,
    ambient: &A,
    lease: VmLease,
    within: Duration,
) -> AppResult<ReadyVm> {
    let project_id = lease.project_id.clone();
    if let Some(ready) = ready_of(&lease) {
        return Ok(touch(store, vm, ambient, &lease, ready).await);
    }
    let log = LogId::Project(project_id.clone());
    let deadline = ambient.now() + within;
    let mut seen = store.log_head(&log).await?;
    let mut lease = setup(store, workflow, ambient, &project_id).await?;
    loop {
        if let Some(ready) = ready_of(&lease) {
            return Ok(ready);
        }
        if lease.state == VmStatus::Failed {
            let reason = lease.reason.unwrap_or_else(|| "its set-up failed".to_owned());
            return Err(AppError::new(
                ErrorCode::VmNotReady,
                format!("The VM could not be set up: {reason}"),
            ));
        }
        let left = deadline.duration_since(ambient.now());
        if !left.is_positive() {
            return Err(AppError::new(
                ErrorCode::VmNotReady,
                "The VM is still starting; ask again in a moment.",
            )
            .retry_after(Duration::from_secs(1)));
        }
        let left = Duration::try_from(left).unwrap_or_default();
        // A lifecycle execution ends with a `vm.state` event; the bound covers one that died without it.
        store.wait_for_append(&log, seen, left.min(Duration::from_secs(2))).await;
        seen = store.log_head(&log).await?;
        lease = lease::load(store, ambient, &project_id).await?;
    }
}

/// Keeps the idle clock and the provider's clock of a used VM going. Failing to is not the caller's trouble: a VM that
/// is gone shows at its use.
async fn touch<S: WriteStore, A: Ambient>(
    store: &S,
    vm: &impl ConnectVm,
    ambient: &A,
    lease: &VmLease,
    ready: ReadyVm,
) -> ReadyVm {
    let now = ambient.now();
    let extended = lease.needs_time_at(now)
        && match vm.connect_vm(&ready.vm_id, pvm_domain::limits::VM_TIMEOUT_SECS).await {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(project.id = %lease.project_id, %error, "could not extend the VM's time");
                false
            }
        };
    if extended || now.duration_since(lease.last_activity).as_secs() >= TOUCH_SECS {
        let touched = lease::change(store, ambient, &lease.project_id, |lease| {
            lease.last_activity = ambient.now();
            if extended {
                lease.kept_awake(now);
            }
            Ok(true)
        });
        if let Err(error) = touched.await {
            tracing::debug!(project.id = %lease.project_id, %error, "could not note the VM's use");
        }
    }
    ready
}
