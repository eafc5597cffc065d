//! Erasing a project: its objects, then its records. Each call removes a bounded batch.

use pvm_application::erase;
use pvm_application::error::AppResult;
use pvm_application::ports::DeleteObject;
use pvm_application::store::WriteStore;
use pvm_contracts::lifecycle::{LifecycleInput, LifecycleOutput};

/// Removes stored objects.
///
/// # Errors
/// Of the store or the objects.
pub async fn delete_files<S: WriteStore, O: DeleteObject>(
    store: &S,
    objects: &O,
    input: LifecycleInput,
) -> AppResult<LifecycleOutput> {
    Ok(LifecycleOutput::more(erase::objects(store, objects, &input.project_id).await?))
}

/// Removes records and events; the project's own record goes last.
///
/// # Errors
/// Of the store.
pub async fn delete_records<S: WriteStore>(store: &S, input: LifecycleInput) -> AppResult<LifecycleOutput> {
    Ok(LifecycleOutput::more(erase::records(store, &input.project_id).await?))
}
