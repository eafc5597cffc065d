//! `GET /api/agents/{agent_id}`

use lambda_http::Request;
use pvm_application::agents;
use pvm_application::error::AppResult;
use pvm_application::store::ReadStore;
use pvm_entry::{Reply, principal, reply, request};

/// Shows an agent.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let agent_id = request::path_text(&request, "agent_id")?;
    let found = agents::get(store, &principal, &agent_id).await?;
    Ok(reply::with_version(reply::ok(&found), found.version))
}
