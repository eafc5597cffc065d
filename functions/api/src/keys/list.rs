//! `GET /api/keys`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::keys_admin;
use pvm_application::store::ReadStore;
use pvm_contracts::keys::Key;
use pvm_entry::request::PageOf;
use pvm_entry::{Reply, Signer, principal, reply};

/// Lists the caller's keys, without their secrets.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, signer: &Signer, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let page = PageOf::of(&request, signer, &principal)?;
    let found = keys_admin::list(store, &principal, page.limit, page.after.clone()).await?;
    let next = page.next(signer, &principal, found.next.as_ref());
    Ok(reply::list(found.items.into_iter().map(Key::from).collect(), next))
}
