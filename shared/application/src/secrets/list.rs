//! Listing secrets, without their values.

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::secret::SecretRef;

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::secrets::rules;
use crate::store::ReadStore;

/// Every secret of a project, by name.
///
/// # Errors
/// Of authorization and the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<Vec<SecretRef>> {
    authorize(store, principal, project_id, Scope::Read).await?;
    rules::references(store, project_id).await
}
