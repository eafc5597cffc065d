//! One project.

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::projects::{ProjectView, viewed};
use crate::store::ReadStore;

/// A project with the state of its VM.
///
/// # Errors
/// `not_found`; of the store.
pub async fn get(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
) -> AppResult<ProjectView> {
    let project = authorize(store, principal, project_id, Scope::Read).await?;
    viewed(store, project).await
}
