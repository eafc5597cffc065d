//! Forgetting a secret.

use pvm_domain::ids::ProjectId;
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::ports::{Ambient, KeepSecrets, ReadSecrets, SetEgress};
use crate::secrets::{get, rules};
use crate::store::{Tx, WriteStore};

/// Takes a secret out of force, then forgets its value, then its reference. Repeated after a failure in between, it goes
/// on where it was.
///
/// # Errors
/// `not_found`; of the stores or the VM.
pub async fn delete<S: WriteStore, A: Ambient>(
    store: &S,
    secrets: &(impl ReadSecrets + KeepSecrets),
    vm: &impl SetEgress,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
) -> AppResult<()> {
    authorize(store, principal, project_id, Scope::Write).await?;
    let secret = get::get(store, principal, project_id, name).await?;
    secrets.delete_secret(project_id, name).await?;
    // Without its value it is no rule any more.
    rules::apply(store, secrets, vm, ambient, project_id).await?;
    store.commit(Tx::new().delete(&secret)).await?;
    Ok(())
}
