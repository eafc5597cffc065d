//! `POST /api/projects/{project_id}/conversations/{conversation_id}/fork`

use lambda_http::Request;
use pvm_application::conversations;
use pvm_application::error::AppResult;
use pvm_application::ports::Ambient;
use pvm_application::store::WriteStore;
use pvm_contracts::Empty;
use pvm_entry::request::{self, Query};
use pvm_entry::{Reply, principal, reply};

/// Makes a new conversation with the history up to `?at=`, the `seq` of an event; without it, with all of it.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl WriteStore, ambient: &impl Ambient, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "conversation_id")?;
    let at = Query::of(&request, &["at"])?.number("at", 1..=u64::MAX)?;
    let Empty {} = request::json(&request)?;
    let claim = request::claim(&request, &principal, format!("{at:?}").as_bytes())?;
    let fork =
        conversations::fork(store, ambient, &principal, &project_id, &name, at, claim.as_ref()).await?;
    let shown = conversations::view(store, fork).await?;
    let location = format!("/api/projects/{project_id}/conversations/{}", shown.conversation_id);
    Ok(reply::with_version(reply::created(&shown, &location), shown.version))
}
