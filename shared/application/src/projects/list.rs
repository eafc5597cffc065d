//! The caller's projects.

use futures::{StreamExt, TryStreamExt};
use pvm_domain::key::Principal;
use pvm_domain::project::{Project, Scope};

use crate::authorize::{authorize, require};
use crate::error::{AppResult, ErrorCode};
use crate::keys;
use crate::projects::{ProjectView, viewed};
use crate::store::{Index, Listing, Page, Position, ReadStore};

/// Reads at the same time for the VMs' states of one page.
const PARALLEL: usize = 16;

/// One page of the caller's projects, the one changed last first. A token that is confined to certain projects lists
/// just these, in one page.
///
/// # Errors
/// Of the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    limit: u32,
    after: Option<Position>,
) -> AppResult<Page<ProjectView>> {
    require(principal, Scope::Read)?;
    let page = match &principal.projects {
        None => {
            let listing = Listing::of(keys::owner_partition(&principal.owner), "P#").from_index(Index::Owner);
            store.list::<Project>(listing.newest_first().page(limit, after)).await?
        }
        Some(_) => Page { items: confined(store, principal).await?, next: None },
    };
    let items = futures::stream::iter(page.items)
        .map(|project| viewed(store, project))
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    Ok(Page { items, next: page.next })
}

async fn confined(store: &impl ReadStore, principal: &Principal) -> AppResult<Vec<Project>> {
    let mut found = Vec::new();
    for project_id in principal.projects.iter().flatten() {
        match authorize(store, principal, project_id, Scope::Read).await {
            Ok(project) => found.push(project),
            Err(error) if error.code == ErrorCode::NotFound => {}
            Err(other) => return Err(other),
        }
    }
    found.sort_by_key(|project| std::cmp::Reverse(project.updated_at));
    Ok(found)
}
