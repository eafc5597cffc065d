//! `POST /chat/agents/conversation`: the same as beginning a conversation, with the project in the body.

use lambda_http::Request;
use pvm_application::conversations::{self, Asked, RunPorts};
use pvm_application::error::{AppError, AppResult};
use pvm_application::ports::{Ambient, GetObject, StartExecution};
use pvm_application::ports_model::KnowModels;
use pvm_application::store::WriteStore;
use pvm_contracts::conversations::CreateProjectConversation;
use pvm_domain::ids::ProjectId;
use pvm_entry::{Reply, principal, request};

/// Begins a conversation with its first message.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    objects: &impl GetObject,
    workflow: &impl StartExecution,
    models: &impl KnowModels,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let (project_id, input) = request::json::<CreateProjectConversation>(&request)?.split();
    let project_id: ProjectId = project_id.parse().map_err(|_| AppError::not_found("project"))?;
    let claim = request::claim(&request, &principal, request.body())?;
    let check_tools = pvm_tools::check_tools;
    let ports = RunPorts { store, objects, workflow, models, ambient, check_tools };
    let asked = Asked { principal: &principal, project_id: &project_id, claim: claim.as_ref() };
    let accepted = conversations::create(ports, asked, input).await?;
    Ok(super::created(&project_id, &accepted))
}
