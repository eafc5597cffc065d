//! `POST /api/projects/{project_id}/services/{service_id}/links`

use lambda_http::{Request, RequestExt};
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, ConnectVm, StartExecution};
use pvm_application::services;
use pvm_application::store::WriteStore;
use pvm_contracts::services::{CreateLink, Link};
use pvm_entry::{Reply, principal, reply, request};

/// Makes a link that opens a service's port.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    workflow: &impl StartExecution,
    vm: &impl ConnectVm,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let service_id = request::path_id(&request, "service_id")?;
    let CreateLink { expires_in_secs } = request::json(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    crate::once::note(store, ambient, claim.as_ref(), &service_id).await?;
    let (url, expires_at) =
        services::link(store, workflow, vm, ambient, &principal, &project_id, &service_id, expires_in_secs)
            .await?;
    Ok(reply::created(&Link { url, expires_at }, request.raw_http_path()))
}
