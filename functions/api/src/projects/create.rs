//! `POST /api/projects`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, StartExecution};
use pvm_application::projects::{self, NewProject};
use pvm_application::store::WriteStore;
use pvm_contracts::projects::CreateProject;
use pvm_entry::{Reply, principal, reply, request};

/// Makes a project.
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
    let body: CreateProject = request::json(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    let input = asked(body);
    let made = projects::create(store, workflow, ambient, &principal, claim.as_ref(), input).await?;
    let location = format!("/api/projects/{}", made.project.project_id);
    Ok(super::reply(made, |project| reply::created(project, &location)))
}

fn asked(body: CreateProject) -> NewProject {
    NewProject {
        name: body.name,
        description: body.description,
        auto_setup_vm: body.auto_setup_vm,
        template: body.template,
        env: body.env,
        vm_idle_secs: body.vm_idle_secs,
        vm_paused_secs: body.vm_paused_secs,
    }
}
