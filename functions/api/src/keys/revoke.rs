//! `DELETE /api/keys/{key_id}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::keys_admin;
use pvm_application::ports::Clock;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Revokes a key.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl WriteStore, clock: &impl Clock, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let key_id = request::path_id(&request, "key_id")?;
    keys_admin::revoke(store, clock, &principal, &key_id).await?;
    Ok(reply::no_content())
}
