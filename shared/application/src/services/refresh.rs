//! Asking the VM how services really are.

use std::time::Duration;

use pvm_domain::service::{Restart, Service, ServiceStatus};

use crate::error::AppError;
use crate::ports::{Clock, ReadFrom, RunCommands, RunReport, RunState, VmError};
use crate::services::{begin, noted, script};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::ReadyVm;

/// Services that are asked for at the same time: a project may have hundreds, and its VM few hands.
const AT_ONCE: usize = 32;

/// Bytes of error output that have what a supervisor said last.
const SAID_BYTES: u64 = 300;

/// What can go wrong.
#[derive(Debug)]
pub enum RefreshError {
    /// The VM did not say.
    Vm(VmError),
    /// The store did not take it.
    App(AppError),
}

/// Brings the records of services in line with the VM: one that ended has failed, one that got ready is running.
///
/// # Errors
/// Of the VM or the store.
pub async fn refresh<S: WriteStore, V: RunCommands, C: Clock>(
    store: &S,
    vm: &V,
    clock: &C,
    ready: &ReadyVm,
    services: &mut [Service],
) -> Result<(), RefreshError> {
    for some in services.chunks_mut(AT_ONCE) {
        let looks = some.iter_mut().map(|service| look(store, vm, clock, ready, service));
        futures::future::try_join_all(looks).await?;
    }
    Ok(())
}

async fn look<S: WriteStore, V: RunCommands, C: Clock>(
    store: &S,
    vm: &V,
    clock: &C,
    ready: &ReadyVm,
    service: &mut Service,
) -> Result<(), RefreshError> {
    let alive = matches!(service.status, ServiceStatus::Starting | ServiceStatus::Running);
    if !alive || service.epoch != Some(ready.epoch) {
        return Ok(());
    }
    let now = ReadFrom { stdout: u64::MAX >> 1, stderr: u64::MAX >> 1, limit: 1, wait: Duration::ZERO };
    let report = vm.read_run(&ready.vm_id, &service.journal_id(), now).await.map_err(RefreshError::Vm)?;
    let (status, reason) = match report {
        // Recorded, and its start was never heard of: begin does it, at most once.
        None => begin::begin(vm, &ready.vm_id, service, Duration::ZERO).await.map_err(RefreshError::Vm)?,
        Some(report) if report.state != RunState::Running => {
            let report =
                begin::tail(vm, &ready.vm_id, service).await.map_err(RefreshError::Vm)?.unwrap_or(report);
            begin::ended(&report)
        }
        Some(report) => {
            match between_starts(vm, &ready.vm_id, service, &report).await.map_err(RefreshError::Vm)? {
                Some((failures, reason)) => {
                    service.failures = failures;
                    (ServiceStatus::Starting, Some(reason))
                }
                None if service.status == ServiceStatus::Starting => {
                    begin::watch(vm, &ready.vm_id, service, Duration::ZERO).await.map_err(RefreshError::Vm)?
                }
                None => return Ok(()),
            }
        }
    };
    if status == service.status && reason == service.reason {
        return Ok(());
    }
    service.status = status;
    service.reason = reason;
    match store.commit(noted(Tx::new(), service, clock)).await {
        Ok(_) => Ok(()),
        // Somebody else changed it meanwhile: theirs stands.
        Err(StoreError::Conflict { .. }) => {
            match super::load(store, &service.project_id, &service.service_id).await {
                Ok(now) => {
                    *service = now;
                    Ok(())
                }
                Err(error) => Err(RefreshError::App(error)),
            }
        }
        Err(other) => Err(RefreshError::App(other.into())),
    }
}

/// Whether a service's program has ended and waits to be started again. Its supervisor says so at the end of the error
/// output.
async fn between_starts(
    vm: &impl RunCommands,
    vm_id: &str,
    service: &Service,
    report: &RunReport,
) -> Result<Option<(u32, String)>, VmError> {
    let total = report.stderr.total;
    if total == 0 || service.restart == Restart::No {
        return Ok(None);
    }
    let stderr = total.saturating_sub(SAID_BYTES);
    let from = ReadFrom { stdout: u64::MAX >> 1, stderr, limit: SAID_BYTES, wait: Duration::ZERO };
    let said = vm.read_run(vm_id, &service.journal_id(), from).await?;
    Ok(said.and_then(|said| script::between_starts(&said.stderr.data)))
}
