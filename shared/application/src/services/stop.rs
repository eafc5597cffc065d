//! Stopping a service.

use pvm_domain::ids::{ProjectId, ServiceId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::service::{Service, ServiceStatus};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, RunCommands, VmError};
use crate::services::end::{Leftover, end, end_leftovers};
use crate::services::noted;
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::{lease, ready};

/// Stops a service and forgets it: it is listed no more and not brought back. Its name is free again. In a VM that is
/// paused its program ends when that VM is resumed.
///
/// # Errors
/// `not_found`; of the store or the VM.
pub async fn stop<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    service_id: &ServiceId,
) -> AppResult<Service> {
    authorize(store, principal, project_id, Scope::Write).await?;
    for _ in 0..8 {
        let mut service = super::load(store, project_id, service_id).await?;
        // Noted first: whoever looks from now on does not start it again.
        if service.status != ServiceStatus::Stopped {
            service.status = ServiceStatus::Stopped;
            service.reason = None;
            match store.commit(noted(Tx::new(), &mut service, ambient)).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => continue,
                Err(other) => return Err(other.into()),
            }
        }
        let left = end_where_ready(store, vm, ambient, &service).await?;
        let mut tx = Tx::new().delete(&service).remove(keys::service_name(project_id, &service.name));
        let waits = left.is_some();
        if let Some(mut left) = left {
            tx = tx.overwrite(&mut left);
        }
        match store.commit(tx).await {
            Ok(_) if waits => return end_after_all(store, vm, ambient, project_id).await.map(|()| service),
            Ok(_) => return Ok(service),
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "The service keeps changing; try again."))
}

/// Ends the program, where its VM is ready. Answers what is left to do when that VM is there again.
async fn end_where_ready<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    service: &Service,
) -> AppResult<Option<Leftover>> {
    let lease = lease::load(store, ambient, &service.project_id).await?;
    let Some(ready) = ready::ready_of(&lease) else { return Ok(Leftover::of(service, &lease)) };
    if service.epoch != Some(ready.epoch) {
        return Ok(None);
    }
    match end(vm, &ready.vm_id, service).await {
        Ok(()) | Err(VmError::Gone) => Ok(None),
        Err(error @ VmError::Paused) => {
            lease::note_away(store, ambient, &service.project_id, &ready.vm_id, &error).await?;
            Ok(Leftover::of(service, &lease))
        }
        Err(error) => Err(error.into()),
    }
}

/// The VM may have got ready just before the leftover was noted; then whoever readied it did not see it.
async fn end_after_all<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<()> {
    let lease = lease::load(store, ambient, project_id).await?;
    match ready::ready_of(&lease) {
        Some(ready) => end_leftovers(store, vm, project_id, &ready).await,
        None => Ok(()),
    }
}
