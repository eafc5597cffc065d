//! `PUT /api/limits/{owner}`

use lambda_http::Request;
use pvm_application::error::{AppError, AppResult};
use pvm_application::fair_use;
use pvm_application::ports::Clock;
use pvm_application::store::WriteStore;
use pvm_contracts::fair_use::SetLimits;
use pvm_domain::ids::OwnerId;
use pvm_entry::{Reply, Settings, principal, reply, request};

/// Sets limits of an owner; for operators of the install.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    settings: &Settings,
    store: &impl WriteStore,
    clock: &impl Clock,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let owner = request::path_text(&request, "owner")?;
    let owner = OwnerId::parse(&owner).map_err(|_| AppError::not_found("owner"))?;
    let SetLimits { limits } = request::json(&request)?;
    let shares = fair_use::set(store, clock, &principal, &settings.operators, &owner, &limits).await?;
    Ok(reply::ok(&super::shown(owner, shares)))
}
