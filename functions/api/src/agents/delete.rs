//! `DELETE /api/agents/{agent_id}`

use lambda_http::Request;
use pvm_application::agents;
use pvm_application::error::AppResult;
use pvm_application::ports::Clock;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Deletes an agent; runs that use it go on with the version they began with.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl WriteStore, clock: &impl Clock, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let agent_id = request::path_text(&request, "agent_id")?;
    let seen = super::only(request::if_match(&request));
    agents::delete(store, clock, &principal, &agent_id, seen).await?;
    Ok(reply::no_content())
}
