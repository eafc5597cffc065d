//! `POST /api/projects/{project_id}/conversations/{conversation_id}/messages`

use lambda_http::Request;
use pvm_application::conversations::{self, Asked, RunPorts};
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, GetObject, RunCommands, SendTask, StartExecution, StopExecution};
use pvm_application::ports_model::KnowModels;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Takes a further message.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &impl GetObject,
    workflow: &(impl StartExecution + StopExecution + SendTask),
    vm: &impl RunCommands,
    models: &impl KnowModels,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "conversation_id")?;
    let input = request::json(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    let check_tools = pvm_tools::check_tools;
    let ports = RunPorts { store, objects, workflow, models, ambient, check_tools };
    let asked = Asked { principal: &principal, project_id: &project_id, claim: claim.as_ref() };
    let accepted = conversations::send(ports, vm, asked, &name, input).await?;
    Ok(reply::accepted(&accepted))
}
