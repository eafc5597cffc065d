//! Uploads: small ones in the request, any size by a signed request. The record comes first, so that the event of the
//! arriving object always finds it.

use std::time::Duration;

use bytes::Bytes;
use pvm_domain::file::{FilePointer, ProjectFile, SyncStatus, WorkspacePath, object_key};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::Scope;
use sha2::{Digest, Sha256};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::save::next_version;
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::{Ambient, PresignObject, Presigned, PutObject};
use crate::store::{Condition, StoreError, Tx, WriteStore};

/// Permission bits of a file that names none.
pub const DEFAULT_MODE: u32 = 0o644;
/// Tries before an upload to a path that others keep changing gives up.
const TRIES: u32 = 8;

/// An upload as asked for.
#[derive(Debug, Clone)]
pub struct NewUpload {
    /// Where it goes.
    pub path: WorkspacePath,
    /// Permission bits; what the file had, else 0o644, if none.
    pub mode: Option<u32>,
}

/// Stores a file whose bytes are at hand (at most 4 MiB). It is written into the VM by the event of its object.
///
/// # Errors
/// `too_large`; those of authorization, idempotency and the stores.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn inline<S: WriteStore, O: PutObject, A: Ambient>(
    store: &S,
    objects: &O,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    claim: Option<&Claim>,
    upload: NewUpload,
    bytes: Bytes,
) -> AppResult<ProjectFile> {
    if bytes.len() as u64 > limits::UPLOAD_INLINE_BYTES {
        let detail = "An upload in the request may have 4 MiB; send {path, size} as JSON for a signed upload of any size.";
        return Err(AppError::new(ErrorCode::TooLarge, detail));
    }
    authorize(store, principal, project_id, Scope::Write).await?;
    if let Some(known) = known(store, project_id, claim, ambient).await? {
        return Ok(known);
    }
    let (size, sha256) = (bytes.len() as u64, hex::encode(Sha256::digest(&bytes)));
    let (mut file, version) = announce(store, ambient, project_id, claim, &upload, None).await?;
    let key = object_key(project_id, &file.file_id, version);
    objects.put(&key, bytes, Some(&sha256)).await?;
    for _ in 0..TRIES {
        if file.object_version >= version {
            // The object's event was faster, or a later upload won.
            return Ok(file);
        }
        file.object_version = version;
        file.upload_version = file.upload_version.filter(|open| *open > version);
        (file.size, file.sha256) = (size, Some(sha256.clone()));
        file.sync_status = SyncStatus::Pending;
        file.updated_at = ambient.now();
        match store.commit(Tx::new().update(&mut file)).await {
            Ok(_) => return Ok(file),
            Err(StoreError::Conflict { .. }) => {
                file = super::get::load(store, project_id, &file.file_id).await?
            }
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
}

/// Announces a file of any size; the answer's signed request uploads it within 15 minutes.
///
/// # Errors
/// `invalid` for a size or hash that cannot be; those of authorization, idempotency and the stores.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn presigned<S: WriteStore, O: PresignObject, A: Ambient>(
    store: &S,
    objects: &O,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    claim: Option<&Claim>,
    upload: NewUpload,
    size: u64,
    sha256: Option<&str>,
) -> AppResult<(ProjectFile, Presigned)> {
    if size > limits::UPLOAD_PRESIGNED_BYTES {
        return Err(AppError::invalid("size", "must be at most 5 GiB (5368709120)"));
    }
    if sha256.is_some_and(|hash| {
        hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }) {
        return Err(AppError::invalid("sha256", "must be 64 lower-case hex digits"));
    }
    authorize(store, principal, project_id, Scope::Write).await?;
    let (file, version) = match known(store, project_id, claim, ambient).await? {
        Some(file) => {
            let version = file.upload_version.unwrap_or_else(|| next_version(&file));
            (file, version)
        }
        None => announce(store, ambient, project_id, claim, &upload, Some(size)).await?,
    };
    let key = object_key(project_id, &file.file_id, version);
    let good_for = Duration::from_secs(limits::PRESIGNED_SECS);
    let request = objects.presign_put(&key, size, sha256, good_for).await?;
    Ok((file, request))
}

async fn known<S: WriteStore, A: Ambient>(
    store: &S,
    project_id: &ProjectId,
    claim: Option<&Claim>,
    ambient: &A,
) -> AppResult<Option<ProjectFile>> {
    let Some(id) = replayed(store, claim, ambient.now()).await? else { return Ok(None) };
    let id: FileId = id.parse().map_err(|_| AppError::not_found("file"))?;
    super::get::load(store, project_id, &id).await.map(Some)
}

/// Records that an upload to the path is on its way; answers the record and the version that its object gets.
async fn announce<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    claim: Option<&Claim>,
    upload: &NewUpload,
    size: Option<u64>,
) -> AppResult<(ProjectFile, u64)> {
    for _ in 0..TRIES {
        let existing: Option<ProjectFile> = store.get(&keys::file(project_id, &upload.path)).await?;
        let fresh = existing.is_none();
        let mut file = existing.unwrap_or_else(|| blank(project_id, ambient, upload, size.unwrap_or(0)));
        let version = next_version(&file);
        file.upload_version = Some(version);
        file.mode = upload.mode.unwrap_or(file.mode);
        let mut tx = Tx::new().require(keys::project(project_id), Condition::Present).update(&mut file);
        if fresh {
            let (file_id, path) = (file.file_id.clone(), upload.path.clone());
            let mut pointer = FilePointer { project_id: project_id.clone(), file_id, path, version: 0 };
            tx = tx.create(&mut pointer).remove(keys::file_tombstone(project_id, &upload.path));
        }
        if let Some(claim) = claim {
            tx = tx.create(&mut claim.record(&file.file_id, ambient.now()));
        }
        match store.commit(tx).await {
            Ok(_) => return Ok((file, version)),
            Err(StoreError::Conflict { key }) if claim.is_some_and(|claim| claim.key() == key) => {
                // The same request twice at once: the other one announced it, for the same bytes.
                if let Some(file) = known(store, project_id, claim, ambient).await? {
                    let version = file.upload_version.unwrap_or_else(|| next_version(&file));
                    return Ok((file, version));
                }
            }
            Err(StoreError::Conflict { key }) if key == keys::project(project_id) => {
                return Err(AppError::not_found("project"));
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
}

fn blank<A: Ambient>(project_id: &ProjectId, ambient: &A, upload: &NewUpload, size: u64) -> ProjectFile {
    let now = ambient.now();
    ProjectFile {
        project_id: project_id.clone(),
        file_id: ambient.new_id(),
        path: upload.path.clone(),
        size,
        sha256: None,
        mode: DEFAULT_MODE,
        object_version: 0,
        upload_version: None,
        sequencer: None,
        sync_status: SyncStatus::Pending,
        sync_error: None,
        vm_copy: None,
        created_at: now,
        updated_at: now,
        version: 0,
    }
}
