//! `GET /api/projects/{project_id}/events`

use lambda_http::Request;
use pvm_application::authorize::authorize;
use pvm_application::error::AppResult;
use pvm_application::ports::Clock;
use pvm_application::store::ReadStore;
use pvm_domain::event::LogId;
use pvm_domain::ids::ProjectId;
use pvm_domain::project::Scope;
use pvm_entry::{Reply, principal, request};

/// Reads the project's own log.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle<S, C>(store: &S, clock: &C, request: Request) -> AppResult<Reply>
where
    S: ReadStore + Clone + 'static,
    C: Clock + Clone + 'static,
{
    let principal = principal::of(&request)?;
    let project_id: ProjectId = request::path_id(&request, "project_id")?;
    authorize(store, &principal, &project_id, Scope::Read).await?;
    super::log::read(store, clock, LogId::Project(project_id), &request).await
}
