//! `POST /api/projects/{project_id}/files/{file_id}/versions/{number}/restore`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files::restore;
use pvm_application::ports::{Ambient, RequestSave};
use pvm_application::store::WriteStore;
use pvm_contracts::files::File;
use pvm_entry::{Reply, principal, reply, request};

use crate::files::version_number;
use crate::once;

/// Makes an earlier version of a file the newest one.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    saver: &impl RequestSave,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let file_id = request::path_id(&request, "file_id")?;
    let number = version_number(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    once::note(store, ambient, claim.as_ref(), &file_id).await?;
    let file = restore::restore(store, saver, ambient, &principal, &project_id, &file_id, number).await?;
    let version = file.version;
    Ok(reply::with_version(reply::ok(&File::from(file)), version))
}
