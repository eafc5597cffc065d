//! Listing files, by path.

use pvm_domain::file::ProjectFile;
use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::keys;
use crate::store::{Listing, Page, Position, ReadStore};

/// One page of the files whose path starts with `prefix`, in the order of their paths.
///
/// # Errors
/// Of authorization and the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    prefix: &str,
    limit: u32,
    after: Option<Position>,
) -> AppResult<Page<ProjectFile>> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let listing = Listing::of(keys::project_partition(project_id), format!("F#{prefix}"));
    Ok(store.list(listing.page(limit, after)).await?)
}
