//! `GET /api/projects/{project_id}/conversations/{conversation_id}`

use lambda_http::Request;
use pvm_application::conversations;
use pvm_application::error::AppResult;
use pvm_application::store::ReadStore;
use pvm_entry::{Reply, principal, reply, request};

/// Shows a conversation.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl ReadStore, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "conversation_id")?;
    let found = conversations::get(store, &principal, &project_id, &name).await?;
    Ok(reply::with_version(reply::ok(&found), found.version))
}
