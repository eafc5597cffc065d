//! `POST /api/agents`

use lambda_http::Request;
use pvm_application::agents;
use pvm_application::error::AppResult;
use pvm_application::ports::Clock;
use pvm_application::ports_model::KnowModels;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Defines an agent.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    models: &impl KnowModels,
    clock: &impl Clock,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let definition = request::json(&request)?;
    pvm_tools::check_tools(&definition)?;
    let claim = request::claim(&request, &principal, request.body())?;
    let made = agents::create(store, models, clock, &principal, definition, claim.as_ref()).await?;
    let location = format!("/api/agents/{}", made.definition.agent_id);
    Ok(reply::with_version(reply::created(&made, &location), made.version))
}
