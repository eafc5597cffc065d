//! Reading a service's output.

use pvm_domain::ids::{ProjectId, ServiceId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::service::{Service, ServiceStatus};

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::ports::{Ambient, ReadFrom, RunCommands, RunReport, RunState, VmError};
use crate::services::{RefreshError, refresh};
use crate::store::WriteStore;
use crate::vm::{lease, ready};

/// A service with the output of its current start from `from` on; `None` while it has no VM.
///
/// # Errors
/// `not_found`; of the store or the VM.
pub async fn logs<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    service_id: &ServiceId,
    from: ReadFrom,
) -> AppResult<(Service, Option<RunReport>)> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let mut service = super::load(store, project_id, service_id).await?;
    let lease = lease::load(store, ambient, project_id).await?;
    let Some(ready) = ready::ready_of(&lease).filter(|ready| service.epoch == Some(ready.epoch)) else {
        return Ok((service, None));
    };
    match vm.read_run(&ready.vm_id, &service.journal_id(), from).await {
        Ok(report) => {
            // Whoever reads the output wants to know how it stands, too.
            let news = report.as_ref().is_none_or(|report| report.state != RunState::Running)
                || service.status == ServiceStatus::Starting;
            if news {
                let looked = refresh(store, vm, ambient, &ready, std::slice::from_mut(&mut service)).await;
                match looked {
                    Ok(()) => {}
                    Err(RefreshError::Vm(error)) => return Err(error.into()),
                    Err(RefreshError::App(error)) => return Err(error),
                }
            }
            Ok((service, report))
        }
        Err(error @ (VmError::Gone | VmError::Paused)) => {
            lease::note_away(store, ambient, project_id, &ready.vm_id, &error).await?;
            Ok((service, None))
        }
        Err(error) => Err(error.into()),
    }
}
