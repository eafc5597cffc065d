//! `DELETE /api/projects/{project_id}/secrets/{name}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, KeepSecrets, ReadSecrets, SetEgress};
use pvm_application::secrets;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Forgets a secret and takes it out of force.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    keeper: &(impl ReadSecrets + KeepSecrets),
    vm: &impl SetEgress,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "name")?;
    secrets::delete::delete(store, keeper, vm, ambient, &principal, &project_id, &name).await?;
    Ok(reply::no_content())
}
