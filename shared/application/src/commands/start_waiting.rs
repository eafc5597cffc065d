//! Commands that were accepted before their VM was there: started as soon as it is, whether or not anybody asks for them.

use std::time::Duration;

use pvm_domain::command::CommandStatus;
use pvm_domain::ids::CommandId;
use pvm_domain::vm::VmLease;

use crate::commands::drive::{spec, unclaimed, unclear};
use crate::error::{AppResult, ErrorCode};
use crate::ports::{Ambient, RunCommands, VmError};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::ready;

/// Starts every command that holds the VM of `lease` and waits for it. Their ends are noted by whoever looks next.
/// Answers how many were started.
///
/// # Errors
/// Of the store. A VM that does not answer leaves the rest to the next look.
pub async fn start_waiting<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    lease: &VmLease,
) -> AppResult<u32> {
    let Some(ready) = ready::ready_of(lease) else { return Ok(0) };
    let mut started = 0;
    for id in lease.holders.iter().filter_map(|holder| holder.parse::<CommandId>().ok()) {
        let mut command = match super::get::load(store, &lease.project_id, &id).await {
            Ok(command) => command,
            Err(error) if error.code == ErrorCode::NotFound => continue,
            Err(error) => return Err(error),
        };
        let waits =
            command.status == CommandStatus::Running && command.epoch.is_none() && !command.kill_requested;
        if !waits {
            continue;
        }
        command.epoch = Some(ready.epoch);
        match store.commit(Tx::new().update(&mut command)).await {
            Ok(_) => {}
            // Somebody else drives it.
            Err(StoreError::Conflict { .. }) => continue,
            Err(other) => return Err(other.into()),
        }
        match vm.start_run(&ready.vm_id, &spec(&command), Duration::ZERO).await {
            Ok(_) => started += 1,
            Err(VmError::Gone | VmError::Paused) => {
                unclaimed(store, command).await?;
                return Ok(started);
            }
            // It has ended before it began; the others have their own fate.
            Err(error @ (VmError::Refused(_) | VmError::NotFound(_))) => {
                let live = unclear(store, vm, ambient, &ready.vm_id, command, error).await?;
                super::get::let_go(store, ambient, &live.command).await?;
            }
            // Whether it was started is not known here; the next look asks the journal, which starts it at most once.
            Err(error) => {
                tracing::warn!(command.id = %id, %error, "a waiting command's start is not certain");
                return Ok(started);
            }
        }
    }
    Ok(started)
}
