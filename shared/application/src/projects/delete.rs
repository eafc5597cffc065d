//! Deleting a project: it is marked at once, so that nobody finds it any more; a workflow does the rest, and the sweep
//! starts that workflow again where it was interrupted.

use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::vm::{VmLease, VmStatus};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, StartExecution};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::ready;

/// Tries before a deletion gives up against others that change the project.
const TRIES: u32 = 8;

/// Marks the project and starts its deletion.
///
/// # Errors
/// `not_found`, `forbidden`; of the store.
pub async fn delete<S: WriteStore, A: Ambient>(
    store: &S,
    workflow: &impl StartExecution,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<()> {
    let operation: OperationId = ambient.new_id();
    for _ in 0..TRIES {
        let mut project = authorize(store, principal, project_id, Scope::Admin).await?;
        project.deleting = true;
        project.updated_at = ambient.now();
        let lease: Option<VmLease> = store.get(&keys::vm_lease(project_id)).await?;
        let mut lease = lease.unwrap_or_else(|| VmLease::none(project_id.clone(), ambient.now()));
        lease.follow(&project);
        // A set-up under way loses the lease here, and with it the right to go on: the deletion waits for nobody.
        lease.operation = None;
        lease
            .begin(operation.clone(), VmStatus::Stopping, ambient.now())
            .map_err(|busy| AppError::new(ErrorCode::Conflict, busy.to_string()))?;
        match store.commit(Tx::new().update(&mut project).update(&mut lease)).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => continue,
            Err(other) => return Err(other.into()),
        }
        if let Err(error) = ready::start(workflow, project_id, "delete", &operation).await {
            tracing::warn!(project.id = %project_id, %error, "the deletion could not be started; the sweep will");
        }
        return Ok(());
    }
    Err(AppError::new(ErrorCode::Conflict, "The project keeps changing; try again."))
}
