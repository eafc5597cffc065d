//! `GET /api/projects/{project_id}/conversations/{conversation_id}/events`

use lambda_http::Request;
use pvm_application::conversations;
use pvm_application::error::AppResult;
use pvm_application::ports::Clock;
use pvm_application::store::ReadStore;
use pvm_domain::event::LogId;
use pvm_domain::project::Scope;
use pvm_entry::{Reply, principal, request};

/// Reads a conversation's log.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle<S, C>(store: &S, clock: &C, request: Request) -> AppResult<Reply>
where
    S: ReadStore + Clone + 'static,
    C: Clock + Clone + 'static,
{
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "conversation_id")?;
    let found = conversations::find(store, &principal, &project_id, &name, Scope::Read).await?;
    super::log::read(store, clock, LogId::Conversation(found.conversation_id), &request).await
}
