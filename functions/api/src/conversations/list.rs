//! `GET /api/projects/{project_id}/conversations`

use lambda_http::Request;
use pvm_application::conversations;
use pvm_application::error::AppResult;
use pvm_application::store::ReadStore;
use pvm_entry::request::{self, PageOf};
use pvm_entry::{Reply, Signer, principal, reply};

/// Lists conversations, newest first.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, signer: &Signer, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let page = PageOf::of(&request, signer, &principal)?;
    let (found, next) =
        conversations::list(store, &principal, &project_id, page.limit, page.after.clone()).await?;
    Ok(reply::list(found, page.next(signer, &principal, next.as_ref())))
}
