//! Earlier versions of a file, one that the VM deleted included: listed, downloaded, pruned. Objects never change, so a version is a record that names
//! the object of its bytes.

use std::collections::HashSet;
use std::time::Duration;

use pvm_domain::file::{FileVersion, ProjectFile, object_key};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::{deleted, get};
use crate::keys;
use crate::ports::{DeleteObject, PresignObject, Presigned};
use crate::store::{Listing, ReadStore, StoreError, Tx, WriteStore};

/// Earlier versions that can be had back, oldest first.
pub(super) async fn earlier(
    store: &impl ReadStore,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<Vec<FileVersion>> {
    let mut found = recorded(store, project_id, file_id).await?;
    found.retain(|version| !version.erasing);
    Ok(found)
}

/// All records of earlier versions, oldest first.
async fn recorded(
    store: &impl ReadStore,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<Vec<FileVersion>> {
    let listing = Listing::of(keys::project_partition(project_id), keys::file_versions(file_id));
    Ok(store.list(listing).await?.items)
}

/// A file with its versions.
#[derive(Debug, Clone, PartialEq)]
pub struct Versions {
    /// The versions, newest first.
    pub all: Vec<FileVersion>,
    /// Number of the current one; `None` for a file that the VM deleted.
    pub current: Option<u64>,
}

/// The file, or what it was before the VM deleted it; and the number of its current version where it has one.
async fn known(
    store: &impl ReadStore,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<(ProjectFile, Option<u64>)> {
    match get::load(store, project_id, file_id).await {
        Ok(file) => {
            let current = (file.object_version > 0).then_some(file.object_version);
            Ok((file, current))
        }
        Err(error) if error.code == ErrorCode::NotFound => {
            let deleted = deleted::find(store, project_id, file_id).await?.ok_or(error)?;
            Ok((deleted.file, None))
        }
        Err(error) => Err(error),
    }
}

/// The current version and the earlier ones that are kept, newest first; of a file that the VM deleted all that it had.
///
/// # Errors
/// `not_found`; of the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<Versions> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let (file, current) = known(store, project_id, file_id).await?;
    let mut all = earlier(store, project_id, file_id).await?;
    // What was read as current may have become an earlier version between the two reads: the file's record decides.
    all.retain(|earlier| current.is_none_or(|current| earlier.number < current));
    all.extend(file.as_version());
    all.reverse();
    Ok(Versions { all, current })
}

/// One version of a file, the current one included.
///
/// # Errors
/// `not_found`; of the store.
pub(super) async fn version(
    store: &impl ReadStore,
    file: &ProjectFile,
    number: u64,
) -> AppResult<FileVersion> {
    if let Some(current) = file.as_version().filter(|current| current.number == number) {
        return Ok(current);
    }
    let key = keys::file_version(&file.project_id, &file.file_id, number);
    let found: Option<FileVersion> = store.get(&key).await?;
    found.filter(|found| !found.erasing).ok_or_else(|| AppError::not_found("version of the file"))
}

/// A version, whether it is the current one, and a download that is good for 15 minutes.
///
/// # Errors
/// `not_found`; of the stores.
pub async fn get(
    store: &impl ReadStore,
    objects: &impl PresignObject,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
    number: u64,
) -> AppResult<(FileVersion, bool, Presigned)> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let (file, current) = known(store, project_id, file_id).await?;
    let found = version(store, &file, number).await?;
    let name = found.path.as_str().rsplit('/').next().unwrap_or("file").to_owned();
    let good_for = Duration::from_secs(limits::PRESIGNED_SECS);
    let key = object_key(project_id, file_id, found.object);
    let download = objects.presign_get(&key, &name, good_for).await?;
    Ok((found, current == Some(number), download))
}

/// Forgets the earlier versions of a file that is gone.
pub(super) async fn forget(
    store: &impl WriteStore,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<()> {
    for old in recorded(store, project_id, file_id).await? {
        remove(store, &old).await?;
    }
    Ok(())
}

/// Removes a version's record and gives its bytes back to its owner, which happens once: whoever comes second finds that
/// it is gone.
async fn remove(store: &impl WriteStore, old: &FileVersion) -> AppResult<()> {
    match store.commit(Tx::new().delete(old)).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// Forgets the oldest versions beyond the number that is kept, and objects that no version needs any more. A version is
/// marked first, while the file is as it was read: whoever brings it back at the same moment changes the file, or finds
/// the mark. Its record goes last, so that an interrupted call is followed by the next.
///
/// # Errors
/// Of the stores; the next call goes on.
pub async fn prune(
    store: &impl WriteStore,
    objects: &impl DeleteObject,
    file: &ProjectFile,
) -> AppResult<()> {
    if file.object_version <= limits::FILE_VERSIONS as u64 {
        return Ok(());
    }
    let mut all = recorded(store, &file.project_id, &file.file_id).await?;
    let kept = all.split_off(all.len().saturating_sub(limits::FILE_VERSIONS));
    let current = file.restored_from.unwrap_or(file.object_version);
    let needed: HashSet<u64> = kept.iter().map(|version| version.object).chain([current]).collect();
    // All before the first object goes: several may share one.
    for old in &mut all {
        if !mark(store, old, file).await? {
            return Ok(());
        }
    }
    for old in all {
        if !needed.contains(&old.object) {
            objects.delete(&object_key(&file.project_id, &file.file_id, old.object)).await?;
        }
        remove(store, &old).await?;
    }
    Ok(())
}

/// Marks a version as being forgotten, unless the file has changed since it was read.
async fn mark(store: &impl WriteStore, old: &mut FileVersion, file: &ProjectFile) -> AppResult<bool> {
    // Marked by a call that was interrupted: nobody has found it since.
    if old.erasing {
        return Ok(true);
    }
    old.erasing = true;
    match store.commit(Tx::new().update(old).check(file)).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}
