//! `POST /api/projects/{project_id}/vm/setup`

use lambda_http::Request;
use pvm_application::authorize::authorize;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, StartExecution};
use pvm_application::store::WriteStore;
use pvm_application::vm;
use pvm_contracts::Empty;
use pvm_domain::project::Scope;
use pvm_entry::{Reply, principal, request};

/// Sets the VM up, or joins the set-up under way. Repeating it does nothing new.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    workflow: &impl StartExecution,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let Empty {} = request::json(&request)?;
    authorize(store, &principal, &project_id, Scope::Write).await?;
    let claim = request::claim(&request, &principal, request.body())?;
    crate::once::note(store, ambient, claim.as_ref(), &project_id).await?;
    Ok(super::reply(vm::setup(store, workflow, ambient, &project_id).await?))
}
