//! A project's VM: its state, set-up, pause and end.

pub mod delete;
pub mod pause;
pub mod setup;
pub mod status;

use pvm_contracts::vm::Vm;
use pvm_domain::vm::{VmLease, VmStatus};
use pvm_entry::{Reply, reply};

/// 200 where the VM is in a state that lasts, 202 where an operation goes on.
fn reply(lease: VmLease) -> Reply {
    let vm = Vm::from(lease);
    match vm.vm_status {
        VmStatus::Starting | VmStatus::Stopping => reply::accepted(&vm),
        VmStatus::None | VmStatus::Active | VmStatus::Paused | VmStatus::Failed => reply::ok(&vm),
    }
}
