//! `GET /api/projects/{project_id}/files`

use lambda_http::Request;
use pvm_application::error::{AppError, AppResult};
use pvm_application::files;
use pvm_application::store::ReadStore;
use pvm_contracts::files::File;
use pvm_entry::request::{self, PageOf};
use pvm_entry::{Reply, Signer, principal, reply};

/// Lists files by path, or those that the VM deleted.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, signer: &Signer, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let (page, query) = PageOf::filtered(&request, signer, &principal, &["prefix", "deleted"])?;
    let prefix = query.text("prefix").unwrap_or_default();
    let (limit, after) = (page.limit, page.after.clone());
    let (items, next): (Vec<File>, _) = match query.text("deleted") {
        None | Some("false") => {
            let found = files::list::list(store, &principal, &project_id, prefix, limit, after).await?;
            (found.items.into_iter().map(File::from).collect(), found.next)
        }
        Some("true") => {
            let found = files::deleted::list(store, &principal, &project_id, prefix, limit, after).await?;
            (found.items.into_iter().map(File::from).collect(), found.next)
        }
        Some(_) => return Err(AppError::invalid("deleted", "must be `true` or `false`")),
    };
    let next = page.next(signer, &principal, next.as_ref());
    Ok(reply::list(items, next))
}
