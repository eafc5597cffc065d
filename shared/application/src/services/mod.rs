//! Services: programs that a project keeps running. Started through the VM's journal, supervised inside the VM, brought
//! back on every new VM.

mod begin;
mod end;
mod link;
mod logs;
mod refresh;
mod restore;
mod script;
mod start;
mod stop;

pub use link::{link, revoke_links};
pub use logs::logs;
pub use refresh::{RefreshError, refresh};
pub use restore::restore;
pub use start::{NewService, start};
pub use stop::stop;

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::ids::{ProjectId, ServiceId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::service::Service;
use pvm_domain::vm::VmLease;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::ports::{Ambient, Clock, ConnectVm, RunCommands, VmError};
use crate::records::record;
use crate::store::{Listing, ReadStore, Tx, WriteStore};
use crate::vm::{lease, ready};

/// Claims a service's name within its project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceName {
    pub(crate) project_id: ProjectId,
    pub(crate) name: String,
    pub(crate) service_id: ServiceId,
    pub(crate) version: u64,
}
record!(ServiceName, "service_name", |r| keys::service_name(&r.project_id, &r.name));

/// All services of a project, as recorded.
///
/// # Errors
/// Of the store.
pub async fn records(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Vec<Service>> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let listing = Listing::of(keys::project_partition(project_id), "SVC#");
        let page = store.list::<Service>(listing.page(pvm_domain::limits::LIST_MAX, after)).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

/// All services of a project, as the VM says they are, with the URLs that open them now: none while the VM is paused or
/// away (`link` brings it back and makes one).
///
/// # Errors
/// Of authorization, the store or the VM.
pub async fn list<S: WriteStore, V: ConnectVm + RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<Vec<(Service, Option<String>)>> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let (mut services, lease) =
        (records(store, project_id).await?, lease::load(store, ambient, project_id).await?);
    if let Some(ready) = ready::ready_of(&lease)
        && let Err(RefreshError::App(error)) = refresh(store, vm, ambient, &ready, &mut services).await
    {
        return Err(error);
    }
    let urls = urls(vm, &lease, &services).await?;
    Ok(services.into_iter().zip(urls).collect())
}

/// The URL of each service that has a port, where the VM is there to answer.
///
/// # Errors
/// Of the VM's server, where it has to be asked for what signs links.
pub(crate) async fn urls(
    vm: &impl ConnectVm,
    lease: &VmLease,
    services: &[Service],
) -> Result<Vec<Option<String>>, VmError> {
    let none = || vec![None; services.len()];
    let Some(ready) = ready::ready_of(lease) else { return Ok(none()) };
    if services.iter().all(|service| service.port.is_none()) {
        return Ok(none());
    }
    match vm.know_links(&ready.vm_id).await {
        Ok(()) => {}
        // Whoever uses it next finds out and gets a new one.
        Err(VmError::Gone | VmError::Paused) => return Ok(none()),
        Err(error) => return Err(error),
    }
    let url = |service: &Service| service.port.map(|port| vm.port_url(&ready.vm_id, port));
    Ok(services.iter().map(url).collect())
}

/// One service, as recorded.
///
/// # Errors
/// `not_found`; of the store.
pub async fn load(
    store: &impl ReadStore,
    project_id: &ProjectId,
    service_id: &ServiceId,
) -> AppResult<Service> {
    store.get(&keys::service(project_id, service_id)).await?.ok_or_else(|| AppError::not_found("service"))
}

/// The service of that name, if there is one.
///
/// # Errors
/// Of the store.
pub async fn by_name(
    store: &impl ReadStore,
    project_id: &ProjectId,
    name: &str,
) -> AppResult<Option<Service>> {
    let claim: Option<ServiceName> = store.get(&keys::service_name(project_id, name)).await?;
    match claim {
        Some(claim) => Ok(store.get(&keys::service(project_id, &claim.service_id)).await?),
        None => Ok(None),
    }
}

/// Adds the update of a service and the event that tells its state.
fn noted(tx: Tx, service: &mut Service, clock: &impl Clock) -> Tx {
    let data = json!({
        "service_id": service.service_id, "name": service.name, "status": service.status,
        "port": service.port, "reason": service.reason,
    });
    let event = NewEvent::new(EventType::ServiceState, clock.now(), data);
    let log = LogId::Project(service.project_id.clone());
    tx.update(service).append(&log, event)
}
