//! `DELETE /api/projects/{project_id}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, StartExecution};
use pvm_application::projects;
use pvm_application::store::WriteStore;
use pvm_contracts::projects::{DeletionStatus, ProjectDeletion};
use pvm_entry::{Reply, principal, reply, request};

/// Starts a project's deletion.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    workflow: &impl StartExecution,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    projects::delete(store, workflow, ambient, &principal, &project_id).await?;
    Ok(reply::accepted(&ProjectDeletion { project_id, status: DeletionStatus::Deleting }))
}
