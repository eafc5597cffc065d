//! Looking at a secret: everything but its value.

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::secret::{self, SecretRef};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::store::ReadStore;

/// The reference of a secret.
///
/// # Errors
/// `not_found`; of the store.
pub async fn get(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
) -> AppResult<SecretRef> {
    authorize(store, principal, project_id, Scope::Read).await?;
    if secret::check_name(name).is_err() {
        return Err(AppError::not_found("secret"));
    }
    store.get(&keys::secret(project_id, name)).await?.ok_or_else(|| AppError::not_found("secret"))
}
