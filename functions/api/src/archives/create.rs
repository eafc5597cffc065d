//! `POST /api/projects/{project_id}/archives`

use lambda_http::{Request, RequestExt};
use pvm_application::archives;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, RequestSave};
use pvm_application::store::WriteStore;
use pvm_contracts::files::Archive;
use pvm_entry::{Reply, principal, reply, request};

/// Asks for an archive of all files.
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
    let claim = request::claim(&request, &principal, request.body())?;
    let made =
        archives::create::create(store, saver, ambient, &principal, &project_id, claim.as_ref()).await?;
    let location = format!("{}/{}", request.raw_http_path(), made.archive_id);
    let accepted = reply::accepted(&Archive::new(made, None));
    Ok(reply::with_header(accepted, http::header::LOCATION, &location))
}
