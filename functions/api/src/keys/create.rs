//! `POST /api/keys`

use lambda_http::Request;
use pvm_application::error::AppResult;
use pvm_application::keys_admin::{self, NewApiKey};
use pvm_application::ports::Ambient;
use pvm_application::store::WriteStore;
use pvm_contracts::keys::{CreateKey, NewKey};
use pvm_domain::project::Scope;
use pvm_entry::{Reply, principal, reply, request};

/// Makes an API key and shows it, this once.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(store: &impl WriteStore, ambient: &impl Ambient, request: Request) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let CreateKey { name, scope, project_ids, expires_in_secs } = request::json(&request)?;
    let claim = request::claim(&request, &principal, request.body())?;
    let scope = scope.unwrap_or(Scope::Write);
    let input = NewApiKey { name, scope, projects: project_ids, expires_in_secs };
    let (key, api_key) = keys_admin::create(store, ambient, &principal, claim.as_ref(), input).await?;
    let location = format!("/api/keys/{}", key.key_id);
    Ok(reply::created(&NewKey { key: key.into(), api_key }, &location))
}
