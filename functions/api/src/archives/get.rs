//! `GET /api/projects/{project_id}/archives/{archive_id}`

use std::time::Duration;

use lambda_http::Request;
use pvm_application::archives;
use pvm_application::error::AppResult;
use pvm_application::ports::{Clock, PresignObject};
use pvm_application::store::ReadStore;
use pvm_contracts::files::Archive;
use pvm_domain::limits;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal, reply};

use crate::files::signed;

/// Shows an archive, with a presigned download once it is ready.
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
    let id = request::path_id(&request, "archive_id")?;
    let query = Query::of(&request, &["wait"])?;
    let wait = Duration::from_secs(query.number("wait", 0..=limits::POLL_WAIT_SECS)?.unwrap_or(0));
    let found = archives::get::get(store, objects, clock, &principal, &project_id, &id, wait).await?;
    Ok(reply::ok(&Archive::new(found.0, found.1.map(|way| signed(way, clock)))))
}
