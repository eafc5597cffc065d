//! Ending the program of a service's start: TERM to its whole process group, then KILL. A program that cannot be ended at
//! once, because its VM is paused or on its way, is noted and ended when that VM is there again.

use std::time::Duration;

use pvm_domain::ids::{ProjectId, ServiceId};
use pvm_domain::service::Service;
use pvm_domain::vm::VmLease;
use serde::{Deserialize, Serialize};

use crate::error::AppResult;
use crate::keys;
use crate::ports::{RunCommands, RunSpec, VmError};
use crate::records::record;
use crate::store::{Listing, ReadStore, StoreError, Tx, WriteStore};
use crate::vm::ReadyVm;

/// How long a program may take to end after TERM, in tenths of a second.
const TERM_TENTHS: u32 = 50;

/// The start of a service that was stopped while its VM could not be asked to end it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Leftover {
    project_id: ProjectId,
    service_id: ServiceId,
    /// Its start in the VM's journal.
    journal_id: String,
    /// The epoch of the VM that has it. In any other its processes are gone.
    epoch: u64,
    version: u64,
}
record!(Leftover, "service_leftover", |r| keys::service_leftover(&r.project_id, &r.service_id));

impl Leftover {
    /// What a service leaves in a VM that is not ready; `None` where it runs nowhere.
    pub(super) fn of(service: &Service, lease: &VmLease) -> Option<Self> {
        let epoch = service.epoch.filter(|epoch| lease.vm_id.is_some() && *epoch == lease.epoch)?;
        Some(Self {
            project_id: service.project_id.clone(),
            service_id: service.service_id.clone(),
            journal_id: service.journal_id(),
            epoch,
            version: 0,
        })
    }
}

/// Ends the program of a service's present start. One that has ended, or never began, is fine.
///
/// # Errors
/// Of the VM.
pub(super) async fn end(vm: &impl RunCommands, vm_id: &str, service: &Service) -> Result<(), VmError> {
    end_run(vm, vm_id, &service.journal_id()).await
}

/// Ends what stopped services left in the VM, and forgets it.
///
/// # Errors
/// Of the store or the VM.
pub(super) async fn end_leftovers(
    store: &impl WriteStore,
    vm: &impl RunCommands,
    project_id: &ProjectId,
    ready: &ReadyVm,
) -> AppResult<()> {
    for left in leftovers(store, project_id).await? {
        if left.epoch == ready.epoch {
            end_run(vm, &ready.vm_id, &left.journal_id).await?;
        }
        match store.commit(Tx::new().delete(&left)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

async fn leftovers(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Vec<Leftover>> {
    Ok(store.list(Listing::of(keys::project_partition(project_id), keys::SERVICE_LEFTOVERS)).await?.items)
}

async fn end_run(vm: &impl RunCommands, vm_id: &str, journal_id: &str) -> Result<(), VmError> {
    let dir = format!("/var/lib/pvm/runs/{journal_id}");
    // What has ended by itself may have left its number to another process.
    let command = format!(
        "[ -e {dir}/exit.json ] || [ -e {dir}/exit ] && exit 0; \
         read -r pid _ <{dir}/pid || exit 0; kill -TERM -- \"-$pid\" || exit 0; \
         for _ in $(seq {TERM_TENTHS}); do kill -0 -- \"-$pid\" || exit 0; sleep 0.1; done; kill -KILL -- \"-$pid\""
    );
    let ask = RunSpec {
        run_id: format!("{journal_id}-stop"),
        command,
        working_dir: "/".to_owned(),
        env: std::collections::BTreeMap::new(),
        stdin: None,
        user: "root".to_owned(),
        timeout_secs: Some(30),
    };
    vm.start_run(vm_id, &ask, Duration::from_secs(10)).await?;
    vm.kill_run(vm_id, journal_id).await
}
