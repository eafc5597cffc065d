//! `POST /api/projects/{project_id}/conversations/{conversation_id}/approvals/{approval_id}`

use lambda_http::Request;
use pvm_application::conversations;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, SendTask};
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Approves or denies a call. Deciding the same again is fine.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    tasks: &impl SendTask,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "conversation_id")?;
    let approval = request::path_text(&request, "approval_id")?;
    let input = request::json(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    crate::once::note(store, ambient, claim.as_ref(), &approval).await?;
    let decided =
        conversations::decide(store, tasks, ambient, &principal, &project_id, &name, &approval, input)
            .await?;
    Ok(reply::ok(&decided))
}
