//! `GET /api/projects/{project_id}/files/{file_id}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files;
use pvm_application::ports::{Clock, PresignObject};
use pvm_application::store::ReadStore;
use pvm_contracts::files::Download;
use pvm_entry::{Reply, principal, reply, request};

use crate::files::signed;

/// Shows a file with a presigned download.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl ReadStore,
    objects: &impl PresignObject,
    clock: &impl Clock,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let file_id = request::path_id(&request, "file_id")?;
    let (file, way) = files::get::get(store, objects, &principal, &project_id, &file_id).await?;
    let version = file.version;
    let shown = Download { file: file.into(), download: way.map(|way| signed(way, clock)) };
    Ok(reply::with_version(reply::ok(&shown), version))
}
