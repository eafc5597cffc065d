//! Looking at an archive, with a signed download once it is ready.

use std::time::Duration;

use pvm_domain::archive::{Archive, ArchiveStatus};
use pvm_domain::ids::{ArchiveId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::ports::{Clock, PresignObject, Presigned};
use crate::store::ReadStore;

/// Time between looks at an archive that is being built.
const LOOK: Duration = Duration::from_millis(250);

/// An archive, after at most `wait` where it is being built.
///
/// # Errors
/// `not_found`; of the stores.
pub async fn get<C: Clock>(
    store: &impl ReadStore,
    objects: &impl PresignObject,
    clock: &C,
    principal: &Principal,
    project_id: &ProjectId,
    archive_id: &ArchiveId,
    wait: Duration,
) -> AppResult<(Archive, Option<Presigned>)> {
    let project = authorize(store, principal, project_id, Scope::Read).await?;
    let mut left = wait;
    let archive = loop {
        let found: Option<Archive> = store.get(&keys::archive(project_id, archive_id)).await?;
        let archive = found.filter(|archive| clock.now() < archive.expires_at());
        let mut archive = archive.ok_or_else(|| AppError::not_found("archive"))?;
        let status = archive.status_at(clock.now());
        if status != archive.status {
            archive.status = status;
            archive.reason = Some("It took too long to build; ask for a new one.".to_owned());
        }
        if archive.status != ArchiveStatus::Building || left.is_zero() {
            break archive;
        }
        let step = left.min(LOOK);
        clock.sleep(step).await;
        left -= step;
    };
    if archive.status != ArchiveStatus::Ready {
        return Ok((archive, None));
    }
    let name: String =
        project.name.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    let good_for = Duration::from_secs(limits::PRESIGNED_SECS);
    let download = objects.presign_get(&archive.object_key(), &format!("{name}.tar.zst"), good_for).await?;
    Ok((archive, Some(download)))
}
