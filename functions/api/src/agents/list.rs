//! `GET /api/agents`

use lambda_http::Request;
use pvm_application::agents;
use pvm_application::error::AppResult;
use pvm_application::store::ReadStore;
use pvm_entry::request::PageOf;
use pvm_entry::{Reply, Signer, principal, reply};

/// Lists the caller's agents and the built-in ones.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, signer: &Signer, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let page = PageOf::of(&request, signer, &principal)?;
    let (found, next) = agents::list(store, &principal, page.limit, page.after.clone()).await?;
    Ok(reply::list(found, page.next(signer, &principal, next.as_ref())))
}
