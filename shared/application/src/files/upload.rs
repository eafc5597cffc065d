//! Uploads: small ones in the request, larger ones by a signed request, any size by signed requests for its parts. The
//! record comes first, so that the event of the arriving object always finds it.

use std::time::Duration;

use bytes::Bytes;
use jiff::SignedDuration;
use pvm_domain::fair_use::Counted;
use pvm_domain::file::{FilePointer, OpenUpload, ProjectFile, SyncStatus, WorkspacePath, object_key};
use pvm_domain::ids::{FileId, OwnerId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::Scope;
use sha2::{Digest, Sha256};

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::files::parts::{self, Parts};
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::{Ambient, PresignObject, Presigned, PutObject, UploadParts};
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

/// What is announced of an upload.
#[derive(Debug, Clone, Default)]
pub struct Announced {
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its bytes, lower-case hex, where it is known.
    pub sha256: Option<String>,
    /// Whether it comes in parts although it need not.
    pub in_parts: bool,
}

/// How an announced upload is sent.
#[derive(Debug, Clone)]
pub enum Way {
    /// By one request.
    Whole(Presigned),
    /// By one request for each part; completed by a further one.
    Parts(Parts),
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
    let owner = authorize(store, principal, project_id, Scope::Write).await?.owner;
    if let Some(known) = known(store, project_id, claim, ambient).await? {
        return Ok(known);
    }
    let (size, sha256) = (bytes.len() as u64, hex::encode(Sha256::digest(&bytes)));
    let announced = Announced { size, sha256: Some(sha256.clone()), in_parts: false };
    let (mut file, open) =
        match announce(store, ambient, project_id, &owner, claim, &upload, &announced).await {
            // The same request twice at once, and the other one is through.
            Err(error) if error.code == ErrorCode::Conflict && claim.is_some() => {
                let through = known(store, project_id, claim, ambient).await?;
                return through.filter(|file| file.object_version > 0).ok_or(error);
            }
            announced => announced?,
        };
    let version = open.version;
    let key = object_key(project_id, &file.file_id, version);
    objects.put(&key, bytes, Some(&sha256)).await?;
    for _ in 0..TRIES {
        if file.object_version >= version {
            // The object's event was faster, or a later upload won.
            return Ok(file);
        }
        let before = arrived(&mut file, &open, size, sha256.clone(), ambient);
        let mut tx = Tx::new().update(&mut file);
        if let Some(mut before) = before {
            tx = tx.create(&mut before);
        }
        match store.commit(tx).await {
            Ok(_) => return Ok(file),
            Err(StoreError::Conflict { .. }) => {
                file = super::get::load(store, project_id, &file.file_id).await?;
            }
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
}

/// An announced upload is there: its bytes are the file's current ones. Answers the version before, to be kept.
pub(super) fn arrived<A: Ambient>(
    file: &mut ProjectFile,
    upload: &OpenUpload,
    size: u64,
    sha256: String,
    ambient: &A,
) -> Option<pvm_domain::file::FileVersion> {
    let before = file.as_version();
    (file.object_version, file.restored_from) = (upload.version, None);
    // Those announced before it may still come: they are kept as earlier versions then.
    file.uploads.retain(|open| open.version != upload.version);
    (file.size, file.sha256, file.mode) = (size, Some(sha256), upload.mode);
    file.sync_status = SyncStatus::Pending;
    file.sync_error = None;
    file.updated_at = ambient.now();
    before
}

/// Announces a file of any size; the answer's signed requests upload it within 15 minutes, in parts within six hours.
///
/// # Errors
/// `invalid` for a size or hash that cannot be; those of authorization, idempotency and the stores.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn presigned<S: WriteStore, O: PresignObject + UploadParts, A: Ambient>(
    store: &S,
    objects: &O,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    claim: Option<&Claim>,
    upload: NewUpload,
    announced: Announced,
) -> AppResult<(ProjectFile, Way)> {
    if announced.size > limits::UPLOAD_PARTS_BYTES {
        return Err(AppError::invalid("size", "must be at most 20 GiB (21474836480)"));
    }
    if announced.sha256.as_ref().is_some_and(|hash| {
        hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    }) {
        return Err(AppError::invalid("sha256", "must be 64 lower-case hex digits"));
    }
    let owner = authorize(store, principal, project_id, Scope::Write).await?.owner;
    let (mut file, mut open) = match known(store, project_id, claim, ambient).await? {
        Some(file) => reopened(file)?,
        None => announce(store, ambient, project_id, &owner, claim, &upload, &announced).await?,
    };
    if announced.size > limits::UPLOAD_PRESIGNED_BYTES || announced.in_parts {
        let id = begun(store, objects, &mut file, &mut open).await?;
        let parts = parts::sign(objects, &file, &open, &id).await?;
        return Ok((file, Way::Parts(parts)));
    }
    let key = object_key(project_id, &file.file_id, open.version);
    let good_for = Duration::from_secs(limits::PRESIGNED_SECS);
    let request = objects.presign_put(&key, open.size, open.sha256.as_deref(), good_for).await?;
    Ok((file, Way::Whole(request)))
}

/// The upload that the replayed request announced.
fn reopened(file: ProjectFile) -> AppResult<(ProjectFile, OpenUpload)> {
    match file.uploads.last().cloned() {
        Some(open) => Ok((file, open)),
        None => Err(AppError::new(
            ErrorCode::Conflict,
            "The upload that this Idempotency-Key announced has arrived or was given up; use a new key for another.",
        )),
    }
}

/// The store's id of an upload in parts: begun now where it was not before.
async fn begun<S: WriteStore>(
    store: &S,
    objects: &impl UploadParts,
    file: &mut ProjectFile,
    open: &mut OpenUpload,
) -> AppResult<String> {
    if let Some(id) = &open.parts_id {
        return Ok(id.clone());
    }
    let key = object_key(&file.project_id, &file.file_id, open.version);
    let id = objects.begin_parts(&key).await?;
    for _ in 0..TRIES {
        let Some(noted) = file.uploads.iter_mut().find(|noted| noted.version == open.version) else { break };
        noted.parts_id = Some(id.clone());
        match store.commit(Tx::new().update(file)).await {
            Ok(_) => {
                open.parts_id = Some(id.clone());
                return Ok(id);
            }
            Err(StoreError::Conflict { .. }) => {
                *file = super::get::load(store, &file.project_id, &file.file_id).await?;
            }
            Err(other) => return Err(other.into()),
        }
    }
    objects.abort_parts(&key, &id).await?;
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
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

/// Records that an upload to the path is on its way; answers the record and the upload.
async fn announce<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    owner: &OwnerId,
    claim: Option<&Claim>,
    upload: &NewUpload,
    announced: &Announced,
) -> AppResult<(ProjectFile, OpenUpload)> {
    let owners = fair_use::limits_of(store, owner).await?;
    let in_parts = announced.in_parts || announced.size > limits::UPLOAD_PRESIGNED_BYTES;
    let good_for = if in_parts { limits::UPLOAD_PARTS_SECS } else { limits::PRESIGNED_SECS };
    let good_for = SignedDuration::from_secs((good_for + limits::UPLOAD_GRACE_SECS).cast_signed());
    for _ in 0..TRIES {
        let existing: Option<ProjectFile> = store.get(&keys::file(project_id, &upload.path)).await?;
        let fresh = existing.is_none();
        let mut file = existing.unwrap_or_else(|| blank(project_id, owner, ambient, upload, announced.size));
        let now = ambient.now();
        let open = OpenUpload {
            version: file.next_version(),
            size: announced.size,
            sha256: announced.sha256.clone(),
            mode: upload.mode.unwrap_or(file.mode),
            parts_id: None,
            until: now.saturating_add(good_for).unwrap_or(now),
        };
        if file.uploads.len() >= limits::UPLOADS_OPEN {
            return Err(AppError::new(
                ErrorCode::Conflict,
                "Ten uploads of this file are open; wait until they have arrived, or give them up.",
            ));
        }
        file.uploads.push(open.clone());
        let mut tx = Tx::new().require(keys::project(project_id), Condition::Present).update(&mut file);
        if fresh {
            let (file_id, path) = (file.file_id.clone(), upload.path.clone());
            let mut pointer = FilePointer { project_id: project_id.clone(), file_id, path, version: 0 };
            tx = tx.create(&mut pointer).remove(keys::file_tombstone(project_id, &upload.path));
        }
        if let Some(claim) = claim {
            tx = tx.create(&mut claim.record(&file.file_id, ambient.now()));
        }
        match store.commit(tx.within(&owners)).await {
            Ok(_) => return Ok((file, open)),
            Err(StoreError::Conflict { key }) if claim.is_some_and(|claim| claim.key() == key) => {
                // The same request twice at once: the other one announced it, for the same bytes.
                if let Some(file) = known(store, project_id, claim, ambient).await? {
                    return reopened(file);
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

fn blank<A: Ambient>(
    project_id: &ProjectId,
    owner: &OwnerId,
    ambient: &A,
    upload: &NewUpload,
    size: u64,
) -> ProjectFile {
    let now = ambient.now();
    ProjectFile {
        project_id: project_id.clone(),
        file_id: ambient.new_id(),
        path: upload.path.clone(),
        size,
        sha256: None,
        mode: upload.mode.unwrap_or(DEFAULT_MODE),
        object_version: 0,
        restored_from: None,
        uploads: Vec::new(),
        sync_status: SyncStatus::Pending,
        sync_error: None,
        vm_copy: None,
        created_at: now,
        updated_at: now,
        owner: Some(owner.clone()),
        counted: Counted::default(),
        version: 0,
    }
}
