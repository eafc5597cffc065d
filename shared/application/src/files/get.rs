//! Looking at a file, with a signed download.

use std::time::Duration;

use pvm_domain::file::{FilePointer, ProjectFile};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::ports::{PresignObject, Presigned};
use crate::store::ReadStore;

/// The record of a file.
///
/// # Errors
/// `not_found`; of the store.
pub async fn load(
    store: &impl ReadStore,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<ProjectFile> {
    let missing = || AppError::not_found("file");
    let pointer: FilePointer =
        store.get(&keys::file_pointer(project_id, file_id)).await?.ok_or_else(missing)?;
    let file: ProjectFile = store.get(&keys::file(project_id, &pointer.path)).await?.ok_or_else(missing)?;
    // The path may belong to another file by now.
    if file.file_id == *file_id { Ok(file) } else { Err(missing()) }
}

/// A file with a download that is good for 15 minutes; `None` while its first upload has not arrived.
///
/// # Errors
/// `not_found`; of the stores.
pub async fn get(
    store: &impl ReadStore,
    objects: &impl PresignObject,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<(ProjectFile, Option<Presigned>)> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let file = load(store, project_id, file_id).await?;
    if file.object_version == 0 {
        return Ok((file, None));
    }
    let name = file.path.as_str().rsplit('/').next().unwrap_or("file").to_owned();
    let good_for = Duration::from_secs(limits::PRESIGNED_SECS);
    let download = objects.presign_get(&file.current_key(), &name, good_for).await?;
    Ok((file, Some(download)))
}
