//! `POST /api/projects/{project_id}/vm/pause`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, DeleteObject, EndVm, GetObject, PutObject, RunCommands, VmFiles};
use pvm_application::store::WriteStore;
use pvm_application::vm;
use pvm_contracts::Empty;
use pvm_entry::{Reply, principal, request};

/// Saves the workspace and pauses the VM. Repeating it does nothing new.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &(impl PutObject + GetObject + DeleteObject),
    vm: &(impl EndVm + VmFiles + RunCommands),
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let Empty {} = request::json(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    crate::once::note(store, ambient, claim.as_ref(), &project_id).await?;
    Ok(super::reply(vm::pause(store, objects, vm, ambient, &principal, &project_id).await?))
}
