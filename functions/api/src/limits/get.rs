//! `GET /api/limits`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::fair_use;
use pvm_application::ports::Clock;
use pvm_application::store::ReadStore;
use pvm_entry::request::Query;
use pvm_entry::{Reply, principal, reply};

/// Shows the caller's limits and how much of each is used.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, clock: &impl Clock, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    Query::of(&request, &[])?;
    let shares = fair_use::get(store, clock, &principal).await?;
    Ok(reply::ok(&super::shown(principal.owner, shares)))
}
