//! `GET /api/projects/{project_id}/files/{file_id}/versions/{number}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files::history;
use pvm_application::ports::{Clock, PresignObject};
use pvm_application::store::ReadStore;
use pvm_contracts::files::{Version, VersionDownload};
use pvm_entry::{Reply, principal, reply, request};

use crate::files::{signed, version_number};

/// Shows a version of a file with a presigned download.
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
    let number = version_number(&request)?;
    let (found, current, way) =
        history::get(store, objects, &principal, &project_id, &file_id, number).await?;
    let shown = VersionDownload { version: Version::new(found, current), download: signed(way, clock) };
    Ok(reply::ok(&shown))
}
