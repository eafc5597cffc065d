//! `POST /api/projects/{project_id}/files/{file_id}/upload`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files::parts;
use pvm_application::ports::{UploadParts, UploadedPart};
use pvm_application::store::WriteStore;
use pvm_contracts::files::{CompleteUpload, CompletedPart, File};
use pvm_entry::{Reply, principal, reply, request};

/// Completes an upload in parts.
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
    let CompleteUpload { parts: sent } = request::json(&request)?;
    let part = |CompletedPart { part_number, etag }| UploadedPart { number: part_number, etag };
    let sent: Vec<UploadedPart> = sent.into_iter().map(part).collect();
    let file = parts::complete(store, objects, &principal, &project_id, &file_id, &sent).await?;
    Ok(reply::accepted(&File::from(file)))
}
