//! `PUT /api/agents/{agent_id}`

use lambda_http::Request;
use pvm_application::agents;
use pvm_application::error::AppResult;
use pvm_application::ports::Clock;
use pvm_application::ports_model::KnowModels;
use pvm_application::store::WriteStore;
use pvm_entry::{Reply, principal, reply, request};

/// Stores a new version of an agent; runs go on with the one that they began with.
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
    let agent_id = request::path_text(&request, "agent_id")?;
    let definition = request::json(&request)?;
    pvm_tools::check_tools(&definition)?;
    let seen = super::only(request::if_match(&request));
    let changed = agents::update(store, models, clock, &principal, &agent_id, definition, seen).await?;
    Ok(reply::with_version(reply::ok(&changed), changed.version))
}
