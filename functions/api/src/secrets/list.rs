//! `GET /api/projects/{project_id}/secrets`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::secrets;
use pvm_application::store::ReadStore;
use pvm_contracts::secrets::Secret;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal, reply};

/// Lists secrets without their values, all in one page.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    Query::of(&request, &[])?;
    let found = secrets::list::list(store, &principal, &project_id).await?;
    Ok(reply::list(found.into_iter().map(Secret::from).collect(), None))
}
