//! `DELETE /api/projects/{project_id}/services/{service_id}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, RunCommands};
use pvm_application::services;
use pvm_application::store::WriteStore;
use pvm_contracts::services::Service;
use pvm_entry::{Reply, principal, reply, request};

/// Stops a service and forgets it; answers how it was left.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    vm: &impl RunCommands,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let service_id = request::path_id(&request, "service_id")?;
    let stopped = services::stop(store, vm, ambient, &principal, &project_id, &service_id).await?;
    Ok(reply::ok(&Service::new(stopped, None)))
}
