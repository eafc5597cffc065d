//! Bringing services back on a VM whose processes are new.

use std::collections::BTreeMap;
use std::time::Duration;

use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::service::{Service, ServiceStatus};

use crate::error::AppResult;
use crate::ports::{Ambient, RunCommands, VmError};
use crate::services::end::end_leftovers;
use crate::services::{begin, noted, records, script};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::provision::of_operation;

/// Starts every service that was meant to run and has not been started in this epoch, those that others depend on
/// first. One that fails is noted and passed over: the project must come up without it.
///
/// # Errors
/// Of the store or the VM.
pub async fn restore<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    operation: &OperationId,
) -> AppResult<u32> {
    let (_, ready) = of_operation(store, ambient, project_id, operation).await?;
    let Some(ready) = ready else { return Ok(0) };
    // First, because they may hold ports.
    end_leftovers(store, vm, project_id, &ready).await?;
    let all = records(store, project_id).await?;
    let (mut started, mut starts) = (0, BTreeMap::new());
    for service in in_order(&all) {
        if !matches!(service.status, ServiceStatus::Starting | ServiceStatus::Running) {
            continue;
        }
        let mut service = service.clone();
        if service.epoch != Some(ready.epoch) {
            service.attempt += 1;
            service.epoch = Some(ready.epoch);
            service.status = ServiceStatus::Starting;
            service.started_at = Some(ambient.now());
            // In order, so that those it depends on have their new start already; it waits for them inside the VM.
            let needs = service
                .depends_on
                .iter()
                .filter_map(|name| starts.get(name).cloned().map(|it| (name.clone(), it)));
            service.needs = needs.collect();
            match store.commit(noted(Tx::new(), &mut service, ambient)).await {
                Ok(_) => {}
                // Stopped or changed by its user at this moment: theirs stands.
                Err(StoreError::Conflict { .. }) => continue,
                Err(other) => return Err(other.into()),
            }
        }
        if script::readiness(&service).is_some() {
            starts.insert(service.name.clone(), service.journal_id());
        }
        let (status, reason) = match begin::begin(vm, &ready.vm_id, &service, Duration::ZERO).await {
            Ok(found) => found,
            Err(VmError::Refused(why)) => (ServiceStatus::Failed, Some(why)),
            Err(VmError::NotFound(what)) => (ServiceStatus::Failed, Some(format!("The VM has no {what}."))),
            Err(error) => return Err(error.into()),
        };
        started += 1;
        if status != service.status {
            service.status = status;
            service.reason = reason;
            match store.commit(noted(Tx::new(), &mut service, ambient)).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
    Ok(started)
}

/// Services so that each comes after those it depends on; a circle is broken where it was entered.
fn in_order(all: &[Service]) -> Vec<&Service> {
    fn visit<'a>(
        service: &'a Service,
        all: &'a [Service],
        seen: &mut Vec<&'a str>,
        order: &mut Vec<&'a Service>,
    ) {
        if seen.contains(&service.name.as_str()) {
            return;
        }
        seen.push(&service.name);
        for needed in all.iter().filter(|other| service.depends_on.contains(&other.name)) {
            visit(needed, all, seen, order);
        }
        order.push(service);
    }
    let (mut seen, mut order) = (Vec::new(), Vec::new());
    for service in all {
        visit(service, all, &mut seen, &mut order);
    }
    order
}
