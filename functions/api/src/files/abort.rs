//! `DELETE /api/projects/{project_id}/files/{file_id}/upload`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files::parts;
use pvm_application::ports::UploadParts;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Gives an upload in parts up.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &impl UploadParts,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let file_id = request::path_id(&request, "file_id")?;
    parts::abort(store, objects, &principal, &project_id, &file_id).await?;
    Ok(reply::no_content())
}
