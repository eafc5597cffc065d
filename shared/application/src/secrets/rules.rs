//! What the egress proxy of a project's VM is told: every secret of the project, as one set of rules.

use pvm_domain::ids::ProjectId;
use pvm_domain::secret::SecretRef;

use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{Ambient, HeaderRule, KeepSecrets, ReadSecrets, SetEgress};
use crate::store::{Listing, ReadStore, WriteStore};
use crate::vm::{lease, ready};

/// Tries before rules that others keep changing are given up.
const TRIES: u32 = 8;

/// The references of a project, by name.
///
/// # Errors
/// Of the store.
pub async fn references(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Vec<SecretRef>> {
    // There are at most `limits::SECRETS_PER_PROJECT`, which one page holds.
    Ok(store.list(Listing::of(keys::project_partition(project_id), "SEC#")).await?.items)
}

/// The rules as they are now. A reference whose value was never stored (its PUT failed in between) has none.
///
/// # Errors
/// Of the stores.
pub async fn current(
    store: &impl ReadStore,
    secrets: &impl ReadSecrets,
    project_id: &ProjectId,
) -> AppResult<Vec<HeaderRule>> {
    of(secrets, project_id, &references(store, project_id).await?).await
}

async fn of(
    secrets: &impl ReadSecrets,
    project_id: &ProjectId,
    references: &[SecretRef],
) -> AppResult<Vec<HeaderRule>> {
    let mut rules = Vec::new();
    for secret in references {
        if let Some(value) = secrets.get_secret(project_id, &secret.name).await? {
            rules.push(HeaderRule { host: secret.host.clone(), header: secret.header.clone(), value });
        }
    }
    Ok(rules)
}

/// Tells the proxy of `vm_id` all rules. Whoever changes a secret meanwhile tells it too, so it is told again until
/// nobody has: the last one to tell has seen everything.
///
/// # Errors
/// Of the stores or the VM's server.
pub async fn tell(
    store: &impl ReadStore,
    secrets: &impl ReadSecrets,
    vm: &impl SetEgress,
    project_id: &ProjectId,
    vm_id: &str,
) -> AppResult<()> {
    let mut known = references(store, project_id).await?;
    for _ in 0..TRIES {
        vm.set_egress(vm_id, &of(secrets, project_id, &known).await?).await?;
        let now = references(store, project_id).await?;
        if now == known {
            return Ok(());
        }
        known = now;
    }
    Err(AppError::new(ErrorCode::Conflict, "The project's secrets keep changing; try again."))
}

/// Puts a change of secrets in force in the VM that the project has now, if it has one. A VM that is on its way, paused
/// or lost gets them when it is readied: that reads them after it has noted the VM in the lease, this one the other way
/// round, so one of the two sees the other.
pub(super) async fn apply<S: WriteStore, A: Ambient>(
    store: &S,
    secrets: &impl ReadSecrets,
    vm: &impl SetEgress,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<()> {
    let lease = lease::load(store, ambient, project_id).await?;
    let Some(vm_id) = &lease.vm_id else { return Ok(()) };
    match tell(store, secrets, vm, project_id, vm_id).await {
        Err(error) if ready::ready_of(&lease).is_none() => {
            tracing::info!(project.id = %project_id, ?error, "a VM that is not active gets its secrets later");
            Ok(())
        }
        Err(error) if error.code == ErrorCode::VmNotReady => {
            lease::note_gone(store, ambient, project_id, vm_id).await.map(|_| ())
        }
        Err(mut error) => {
            error.detail =
                format!("The change is stored but not in force in the VM yet; repeat it. {}", error.detail);
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}

/// Forgets every value of a project that is being deleted; its references go with its other records.
///
/// # Errors
/// Of the stores.
pub async fn erase(
    store: &impl ReadStore,
    secrets: &impl KeepSecrets,
    project_id: &ProjectId,
) -> AppResult<()> {
    for secret in references(store, project_id).await? {
        secrets.delete_secret(project_id, &secret.name).await?;
    }
    Ok(())
}

/// Tells a VM that was just readied its rules. A server that knows no rules is no reason to have no VM where there are
/// none to tell: it says that it has no such path, which looks as if it had no such VM.
///
/// # Errors
/// Of the stores, or of the VM's server where there is a rule.
pub async fn ready_vm(
    store: &impl ReadStore,
    secrets: &impl ReadSecrets,
    vm: &impl SetEgress,
    project_id: &ProjectId,
    vm_id: &str,
) -> AppResult<()> {
    let told = tell(store, secrets, vm, project_id, vm_id).await;
    match told {
        Err(error)
            if matches!(error.code, ErrorCode::VmFailed | ErrorCode::VmNotReady | ErrorCode::NotFound) =>
        {
            if references(store, project_id).await?.is_empty() {
                Ok(())
            } else {
                Err(error)
            }
        }
        other => other,
    }
}
