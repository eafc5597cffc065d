//! `GET /api/projects/{project_id}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::projects;
use pvm_application::store::ReadStore;
use pvm_entry::{Reply, principal, reply, request};

/// Shows a project.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let found = projects::get(store, &principal, &project_id).await?;
    Ok(super::reply(found, reply::ok))
}
