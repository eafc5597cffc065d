//! `DELETE /api/projects/{project_id}/vm`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, StartExecution};
use pvm_application::store::WriteStore;
use pvm_application::vm;
use pvm_entry::{Reply, principal, request};

/// Saves the workspace and ends the VM; the project stays.
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
    Ok(super::reply(vm::teardown(store, workflow, ambient, &principal, &project_id).await?))
}
