//! Ending a VM: StopRuns, Save, Kill.

use pvm_application::error::AppResult;
use pvm_application::files::save::Budget;
use pvm_application::ports::{
    Ambient, ConnectVm, DeleteObject, EndVm, FindVm, GetObject, PutObject, RunCommands, VmFiles,
};
use pvm_application::store::WriteStore;
use pvm_application::vm::end;
use pvm_contracts::lifecycle::{LifecycleInput, LifecycleOutput};

/// Saves the workspace.
///
/// # Errors
/// Of the VM, the objects or the store.
pub async fn save_workspace<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: ConnectVm + VmFiles + RunCommands,
    A: Ambient,
{
    let (project, operation) = (&input.project_id, &input.operation_id);
    let more = end::save_step(store, objects, vm, ambient, project, operation, Budget::step()).await?;
    Ok(LifecycleOutput::more(more))
}

/// Ends the VM.
///
/// # Errors
/// Of the provider or the store.
pub async fn kill_vm<S: WriteStore, V: EndVm + FindVm, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput> {
    end::kill_step(store, vm, ambient, &input.project_id, &input.operation_id).await?;
    Ok(LifecycleOutput::done())
}
