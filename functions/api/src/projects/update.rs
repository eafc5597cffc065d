//! `PUT /api/projects/{project_id}`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::ports::Clock;
use pvm_application::projects::{self, ProjectChange};
use pvm_application::store::WriteStore;
use pvm_contracts::projects::UpdateProject;
use pvm_entry::{Reply, principal, reply, request};

/// Changes a project.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl WriteStore, clock: &impl Clock, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let body: UpdateProject = request::json(&request)?;
    let UpdateProject { name, description, template, env, vm_idle_secs, vm_paused_secs } = body;
    let change = ProjectChange { name, description, template, env, vm_idle_secs, vm_paused_secs };
    let only = request::if_match(&request);
    let changed = projects::update(store, clock, &principal, &project_id, only.as_deref(), change).await?;
    Ok(super::reply(changed, reply::ok))
}
