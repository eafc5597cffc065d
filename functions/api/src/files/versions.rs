//! `GET /api/projects/{project_id}/files/{file_id}/versions`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files::history;
use pvm_application::store::ReadStore;
use pvm_contracts::files::Version;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal, reply};

/// Lists the versions of a file, newest first, all in one page; of one that the VM deleted too.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let file_id = request::path_id(&request, "file_id")?;
    Query::of(&request, &[])?;
    let found = history::list(store, &principal, &project_id, &file_id).await?;
    let shown = found.all.into_iter().map(|version| {
        let current = found.current == Some(version.number);
        Version::new(version, current)
    });
    Ok(reply::list(shown.collect(), None))
}
