//! `GET /api/projects/{project_id}/files`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::files;
use pvm_application::store::ReadStore;
use pvm_contracts::files::File;
use pvm_entry::request::{self, PageOf};
use pvm_entry::{Reply, Signer, principal, reply};

/// Lists files by path.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, signer: &Signer, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let (page, query) = PageOf::filtered(&request, signer, &principal, &["prefix"])?;
    let prefix = query.text("prefix").unwrap_or_default();
    let found =
        files::list::list(store, &principal, &project_id, prefix, page.limit, page.after.clone()).await?;
    let next = page.next(signer, &principal, found.next.as_ref());
    Ok(reply::list(found.items.into_iter().map(File::from).collect(), next))
}
