//! Links to a service's port: private URLs that open it to whoever has them, until they expire or are revoked.

use std::time::Duration;

use jiff::SignedDuration;
use pvm_domain::Timestamp;
use pvm_domain::ids::{ProjectId, ServiceId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{Ambient, ConnectVm, StartExecution, VmError};
use crate::store::WriteStore;
use crate::vm::{lease, ready};

/// How long a link is good unless asked otherwise, in seconds: a day.
const DEFAULT_SECS: u64 = 86_400;
/// How long a link may be good, in seconds: a minute to 30 days.
const SECS: std::ops::RangeInclusive<u64> = 60..=30 * 86_400;
/// The VM may need this long to wake.
const VM_WITHIN: Duration = Duration::from_secs(20);

/// Makes a link to a service, readying the VM if it must be. Answers the URL and when it stops working.
///
/// # Errors
/// `not_found`; `conflict` for a service without a port; `vm_not_ready`.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn link<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    vm: &impl ConnectVm,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    service_id: &ServiceId,
    secs: Option<u64>,
) -> AppResult<(String, Timestamp)> {
    authorize(store, principal, project_id, Scope::Write).await?;
    let secs = secs.unwrap_or(DEFAULT_SECS);
    if !SECS.contains(&secs) {
        return Err(AppError::invalid("expires_in_secs", "must be 60 to 2592000"));
    }
    let service = super::load(store, project_id, service_id).await?;
    let Some(port) = service.port else {
        let detail = "The service has no port, so there is nothing to link to; start it with one.";
        return Err(AppError::new(ErrorCode::Conflict, detail));
    };
    let ready = ready::ready(store, workflow, vm, ambient, project_id, VM_WITHIN).await?;
    vm.know_links(&ready.vm_id).await?;
    let good_for = SignedDuration::from_secs(secs.cast_signed());
    let until = ambient.now().saturating_add(good_for).unwrap_or_else(|_| ambient.now());
    Ok((vm.port_link(&ready.vm_id, port, secs), until))
}

/// Voids every link to a service's port that was given out.
///
/// # Errors
/// `not_found`; `vm_failed` where the VM's server has no links of this kind.
pub async fn revoke_links<S: WriteStore, A: Ambient>(
    store: &S,
    vm: &impl ConnectVm,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    service_id: &ServiceId,
) -> AppResult<()> {
    authorize(store, principal, project_id, Scope::Write).await?;
    let service = super::load(store, project_id, service_id).await?;
    let lease = lease::load(store, ambient, project_id).await?;
    // Without a VM there is no link that works: a new one has a token of its own.
    let (Some(vm_id), Some(port)) = (lease.vm_id, service.port) else { return Ok(()) };
    match vm.revoke_links(&vm_id, port).await {
        Ok(()) | Err(VmError::Gone) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
