//! `PUT /api/projects/{project_id}/secrets/{name}`

use lambda_http::{Request, RequestExt};
use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, KeepSecrets, ReadSecrets, SecretValue, SetEgress};
use pvm_application::secrets::put::{self, NewSecret};
use pvm_application::store::WriteStore;
use pvm_contracts::secrets::{PutSecret, Secret};
use pvm_entry::{Reply, principal, reply, request};

/// Sets a secret; its value is never read back.
///
/// # Errors
/// Of the request and the use case.
pub async fn handle(
    store: &impl WriteStore,
    secrets: &(impl ReadSecrets + KeepSecrets),
    vm: &impl SetEgress,
    ambient: &impl Ambient,
    request: Request,
) -> AppResult<Reply> {
    let principal = principal::of(&request)?;
    let project_id = request::path_id(&request, "project_id")?;
    let name = request::path_text(&request, "name")?;
    let PutSecret { host, header, value } = request::json(&request)?;
    let new = NewSecret { host, header, value: SecretValue::new(value) };
    let (secret, fresh) = put::put(store, secrets, vm, ambient, &principal, &project_id, &name, new).await?;
    let (shown, path) = (Secret::from(secret), request.raw_http_path());
    let answer = if fresh { reply::created(&shown, path) } else { reply::ok(&shown) };
    Ok(reply::with_version(answer, shown.version))
}
