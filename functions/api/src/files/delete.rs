//! `DELETE /api/projects/{project_id}/files/{file_id}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files;
use pvm_application::ports::{Ambient, DeleteObject, VmFiles};
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Deletes a file on both sides.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &impl DeleteObject,
    vm: &impl VmFiles,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let file_id = request::path_id(&request, "file_id")?;
    files::delete::delete(store, objects, vm, ambient, &principal, &project_id, &file_id).await?;
    Ok(reply::no_content())
}
