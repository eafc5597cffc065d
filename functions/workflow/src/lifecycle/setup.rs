//! Setting a VM up: Provision, RestoreFiles, ReplayRecipe, StartServices; and FailVm where one of them failed.

use std::time::Duration;

use pvm_application::error::AppResult;
use pvm_application::files::manifest;
use pvm_application::files::save::{self, Budget};
use pvm_application::ports::{
    Ambient, ConnectVm, CreateVm, DeleteObject, FindVm, GetObject, PutObject, ReadSecrets, RunCommands,
    SetEgress, VmFiles,
};
use pvm_application::store::WriteStore;
use pvm_application::vm::provision::{self, of_operation};
use pvm_application::vm::ready::ready_of;
use pvm_application::vm::recipe::{self, Replay};
use pvm_application::{commands, services};
use pvm_contracts::lifecycle::{FailVmInput, LifecycleInput, LifecycleOutput};
use pvm_domain::limits;
use pvm_entry::StepErrorName;

/// Rounds of making both sides equal before what differs is told instead.
const RESTORE_ROUNDS: u32 = 3;

/// Finds, resumes or makes the VM, and tells its egress proxy the project's secrets.
///
/// # Errors
/// Of the provider, the secrets or the store.
pub async fn provision<S, K, V, A>(
    store: &S,
    secrets: &K,
    vm: &V,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput>
where
    S: WriteStore,
    K: ReadSecrets,
    V: CreateVm + FindVm + ConnectVm + SetEgress,
    A: Ambient,
{
    provision::provision(store, secrets, vm, ambient, &input.project_id, &input.operation_id).await?;
    Ok(LifecycleOutput::done())
}

/// Makes the VM's workspace equal to the stored files, and proves it by a manifest of their hashes. What still differs
/// (a process of a resumed VM may write at the same time) is made equal again, a few times.
///
/// # Errors
/// Of the VM, the objects or the store.
pub async fn restore_files<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let (_, ready) = of_operation(store, ambient, &input.project_id, &input.operation_id).await?;
    let Some(ready) = ready else { return Ok(LifecycleOutput::done()) };
    let (project_id, vm_id) = (&input.project_id, ready.vm_id.as_str());
    for round in 1.. {
        let done = save::reconcile(store, objects, vm, ambient, project_id, vm_id, Budget::step()).await?;
        if done.more {
            return Ok(LifecycleOutput::more(true));
        }
        let proof = manifest::compare(store, vm, ambient, project_id, vm_id).await?;
        if proof.differing.is_empty() || round == RESTORE_ROUNDS {
            manifest::note(store, ambient, proof).await?;
            break;
        }
    }
    Ok(LifecycleOutput::done())
}

/// Replays recorded installs that the VM does not have.
///
/// # Errors
/// Of the VM or the store.
pub async fn replay_recipe<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput> {
    let wait = Duration::from_secs(limits::STEP_INLINE_WAIT_SECS);
    match recipe::replay(store, vm, ambient, &input.project_id, &input.operation_id, wait).await? {
        Replay::Done => Ok(LifecycleOutput::done()),
        Replay::Running => Ok(LifecycleOutput::again_in(5)),
    }
}

/// Starts the project's services, gives the VM free (it is active from here on), brings what was stored meanwhile into
/// it, and starts the commands that waited.
///
/// # Errors
/// Of the VM, the objects or the store.
pub async fn start_services<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: RunCommands + VmFiles,
    A: Ambient,
{
    let (project_id, operation) = (&input.project_id, &input.operation_id);
    // A call that was interrupted after that goes on where it was.
    if !provision::is_active(store, ambient, project_id).await? {
        services::restore(store, vm, ambient, project_id, operation).await?;
    }
    let lease = provision::activate(store, ambient, project_id, operation).await?;
    if let Some(ready) = ready_of(&lease) {
        save::catch_up(store, objects, vm, ambient, project_id, &ready.vm_id).await?;
    }
    commands::start_waiting(store, vm, ambient, &lease).await?;
    Ok(LifecycleOutput::done())
}

/// Notes that the set-up failed, and why.
///
/// # Errors
/// Of the store.
pub async fn fail_vm<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    input: FailVmInput,
) -> AppResult<LifecycleOutput> {
    let reason = reason(&input);
    let refused = input.error == StepErrorName::Terminal.as_str();
    provision::fail(store, ambient, &input.project_id, &input.operation_id, &reason, refused).await?;
    Ok(LifecycleOutput::done())
}

/// The text behind an error that a state machine caught: a step's message where it has one.
fn reason(input: &FailVmInput) -> String {
    let message = serde_json::from_str::<serde_json::Value>(&input.cause)
        .ok()
        .and_then(|cause| cause.get("errorMessage")?.as_str().map(str::to_owned));
    match message {
        Some(text) => text,
        None if input.cause.is_empty() => input.error.clone(),
        None => input.cause.clone(),
    }
}
