//! `DELETE /api/projects/{project_id}/services/{service_id}/links`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, ConnectVm};
use pvm_application::services;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Voids every link to a service's port.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    vm: &impl ConnectVm,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let service_id = request::path_id(&request, "service_id")?;
    services::revoke_links(store, vm, ambient, &principal, &project_id, &service_id).await?;
    Ok(reply::no_content())
}
