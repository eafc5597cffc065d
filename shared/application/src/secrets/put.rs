//! Setting a secret, new or in place of the one before.

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::{Project, Scope};
use pvm_domain::secret::{self, SecretRef};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, KeepSecrets, ReadSecrets, SecretValue, SetEgress};
use crate::secrets::rules;
use crate::store::{Condition, Tx, WriteStore};

/// A secret as it is to be.
#[derive(Debug)]
pub struct NewSecret {
    /// Its host, as users write it.
    pub host: String,
    /// Its header, as users write it.
    pub header: String,
    /// Its value.
    pub value: SecretValue,
}

/// Sets a secret and puts it in force in the project's VM. Safe to repeat. Answers whether it is new.
///
/// # Errors
/// `invalid`; `conflict` where another secret sets the same header for the same host; `limit_reached`; of the stores
/// and the VM.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn put<S: WriteStore, A: Ambient>(
    store: &S,
    secrets: &(impl ReadSecrets + KeepSecrets),
    vm: &impl SetEgress,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
    new: NewSecret,
) -> AppResult<(SecretRef, bool)> {
    authorize(store, principal, project_id, Scope::Write).await?;
    secret::check_name(name)?;
    let (host, header) = (secret::normal_host(&new.host)?, secret::normal_header(&new.header)?);
    secret::check_value(new.value.expose())?;
    let known = rules::references(store, project_id).await?;
    if let Some(other) = known.iter().find(|it| it.name != name && it.host == host && it.header == header) {
        let detail =
            format!("The secret `{}` already sets {header} for {host}; delete it or change it.", other.name);
        return Err(AppError::new(ErrorCode::Conflict, detail));
    }
    let existing = known.iter().find(|it| it.name == name).cloned();
    let fresh = existing.is_none();
    if fresh && known.len() >= limits::SECRETS_PER_PROJECT {
        let detail = format!("A project may have {} secrets; delete one first.", limits::SECRETS_PER_PROJECT);
        return Err(AppError::new(ErrorCode::LimitReached, detail));
    }
    let version = existing.map_or(0, |it| it.version);
    let now = ambient.now();
    let mut secret = SecretRef {
        project_id: project_id.clone(),
        name: name.to_owned(),
        host,
        header,
        updated_at: now,
        version,
    };
    // The reference comes first: a value that no reference names would outlive the project.
    let tx = Tx::new().require(keys::project(project_id), Condition::Present).update(&mut secret);
    store.commit(tx).await?;
    secrets.put_secret(project_id, name, new.value).await?;
    let project: Option<Project> = store.get(&keys::project(project_id)).await?;
    if project.is_none_or(|project| project.deleting) {
        // Deleted meanwhile, perhaps with its references already gone.
        secrets.delete_secret(project_id, name).await?;
        return Err(AppError::not_found("project"));
    }
    rules::apply(store, secrets, vm, ambient, project_id).await?;
    Ok((secret, fresh))
}
