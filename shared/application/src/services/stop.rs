//! Stopping a service: TERM to its whole process group, then KILL.

use std::time::Duration;

use pvm_domain::ids::{ProjectId, ServiceId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::service::{Service, ServiceStatus};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, RunCommands, RunSpec, VmError};
use crate::services::noted;
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::{lease, ready};

/// How long a service may take to end after TERM, in tenths of a second.
const TERM_TENTHS: u32 = 50;

/// Stops a service and forgets it: it is listed no more and not brought back. Its name is free again.
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
        let lease = lease::load(store, ambient, project_id).await?;
        if let Some(ready) = ready::ready_of(&lease).filter(|ready| service.epoch == Some(ready.epoch)) {
            match end(vm, &ready.vm_id, &service).await {
                Ok(()) | Err(VmError::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let tx = Tx::new().delete(&service).remove(keys::service_name(project_id, &service.name));
        match store.commit(tx).await {
            Ok(_) => return Ok(service),
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "The service keeps changing; try again."))
}

async fn end(vm: &impl RunCommands, vm_id: &str, service: &Service) -> Result<(), VmError> {
    let dir = format!("/var/lib/pvm/runs/{}", service.journal_id());
    let command = format!(
        "read -r pid _ <{dir}/pid || exit 0; kill -TERM -- \"-$pid\" || exit 0; \
         for _ in $(seq {TERM_TENTHS}); do kill -0 -- \"-$pid\" || exit 0; sleep 0.1; done; kill -KILL -- \"-$pid\""
    );
    let ask = RunSpec {
        run_id: format!("{}-stop", service.journal_id()),
        command,
        working_dir: "/".to_owned(),
        env: std::collections::BTreeMap::new(),
        stdin: None,
        user: "root".to_owned(),
        timeout_secs: Some(30),
    };
    vm.start_run(vm_id, &ask, Duration::from_secs(10)).await?;
    vm.kill_run(vm_id, &service.journal_id()).await
}
