//! `GET /api/projects/{project_id}/secrets/{name}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::secrets;
use pvm_application::store::ReadStore;
use pvm_contracts::secrets::Secret;
use pvm_entry::{Reply, principal, reply, request};

/// Shows a secret without its value.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "name")?;
    let shown = Secret::from(secrets::get::get(store, &principal, &project_id, &name).await?);
    Ok(reply::with_version(reply::ok(&shown), shown.version))
}
