//! Asking for an archive.

use pvm_domain::archive::{Archive, ArchiveStatus};
use pvm_domain::ids::{ArchiveId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult};
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::{Ambient, RequestSave};
use crate::store::{Condition, StoreError, Tx, WriteStore};

/// Notes that an archive is wanted and asks for it to be built.
///
/// # Errors
/// Of authorization, idempotency, the store or the queue.
pub async fn create<S: WriteStore, A: Ambient>(
    store: &S,
    saver: &impl RequestSave,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    claim: Option<&Claim>,
) -> AppResult<Archive> {
    authorize(store, principal, project_id, Scope::Read).await?;
    if let Some(known) = known(store, ambient, project_id, claim).await? {
        return Ok(known);
    }
    let mut archive = Archive {
        project_id: project_id.clone(),
        archive_id: ambient.new_id(),
        status: ArchiveStatus::Building,
        reason: None,
        entries: 0,
        size: 0,
        sha256: None,
        created_at: ambient.now(),
        version: 0,
    };
    let mut tx = Tx::new().require(keys::project(project_id), Condition::Present).create(&mut archive);
    if let Some(claim) = claim {
        tx = tx.create(&mut claim.record(&archive.archive_id, ambient.now()));
    }
    match store.commit(tx).await {
        Ok(_) => {}
        Err(StoreError::Conflict { .. }) => {
            let known = known(store, ambient, project_id, claim).await?;
            return known.ok_or_else(|| AppError::not_found("project"));
        }
        Err(other) => return Err(other.into()),
    }
    saver.request_archive(project_id, &archive.archive_id).await?;
    Ok(archive)
}

async fn known<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    claim: Option<&Claim>,
) -> AppResult<Option<Archive>> {
    let Some(id) = replayed(store, claim, ambient.now()).await? else { return Ok(None) };
    let id: ArchiveId = id.parse().map_err(|_| AppError::not_found("archive"))?;
    Ok(store.get(&keys::archive(project_id, &id)).await?)
}
