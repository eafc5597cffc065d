//! `POST /api/projects/{project_id}/conversations/{conversation_id}/cancel`

use lambda_http::Request;
use pvm_application::conversations;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, RunCommands, SendTask, StartExecution, StopExecution};
use pvm_application::store::WriteStore;
use pvm_contracts::Empty;
use pvm_entry::{Reply, principal, reply, request};

/// Ends the run under way and those that wait. Repeating it does nothing new.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    workflow: &(impl StartExecution + StopExecution + SendTask),
    vm: &impl RunCommands,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "conversation_id")?;
    let Empty {} = request::json(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    crate::once::note(store, ambient, claim.as_ref(), &name).await?;
    let left = conversations::cancel(store, workflow, vm, ambient, &principal, &project_id, &name).await?;
    let shown = conversations::view(store, left).await?;
    Ok(reply::with_version(reply::ok(&shown), shown.version))
}
