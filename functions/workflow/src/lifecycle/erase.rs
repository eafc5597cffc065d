//! Erasing a project: its objects, then its records. Each call removes a bounded batch.

use pvm_application::erase;
use pvm_application::error::AppResult;
use pvm_application::ports::{
    Ambient, DeleteObject, KeepSecrets, RunCommands, SendTask, StartExecution, StopExecution,
};
use pvm_application::store::WriteStore;
use pvm_application::vm::provision;
use pvm_contracts::lifecycle::{LifecycleInput, LifecycleOutput};

/// Ends the runs of the project's conversations.
///
/// # Errors
/// Of the store.
pub async fn stop_runs<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    A: Ambient,
{
    provision::keep_alive(store, ambient, &input.project_id, &input.operation_id).await?;
    let more = erase::stop_runs(store, workflow, vm, ambient, &input.project_id).await?;
    Ok(LifecycleOutput::more(more))
}

/// Removes stored objects and values of secrets.
///
/// # Errors
/// Of the store, the objects or the secrets.
pub async fn delete_files<S: WriteStore, O: DeleteObject, K: KeepSecrets, A: Ambient>(
    store: &S,
    objects: &O,
    secrets: &K,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput> {
    provision::keep_alive(store, ambient, &input.project_id, &input.operation_id).await?;
    Ok(LifecycleOutput::more(erase::objects(store, objects, secrets, &input.project_id).await?))
}

/// Removes records and events; the project's own record goes last.
///
/// # Errors
/// Of the store.
pub async fn delete_records<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput> {
    provision::keep_alive(store, ambient, &input.project_id, &input.operation_id).await?;
    Ok(LifecycleOutput::more(erase::records(store, &input.project_id).await?))
}
