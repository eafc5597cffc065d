//! `GET /api/projects/{project_id}/services`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, ConnectVm, RunCommands};
use pvm_application::services;
use pvm_application::store::WriteStore;
use pvm_contracts::services::Service;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal, reply};

/// Lists services as the VM says they are. A project has few: they come in one page.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    vm: &(impl ConnectVm + RunCommands),
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    Query::of(&request, &[])?;
    let found = services::list(store, vm, ambient, &principal, &project_id).await?;
    Ok(reply::list(found.into_iter().map(|(service, url)| Service::new(service, url)).collect(), None))
}
