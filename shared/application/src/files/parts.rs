//! Uploads in parts, for files of any size: begun with the announcement, completed or given up by the client.

use std::time::Duration;

use pvm_domain::file::{OpenUpload, ProjectFile, object_key};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::limits;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::files::get;
use crate::keys;
use crate::ports::{ObjectError, PresignObject, Presigned, UploadParts, UploadedPart};
use crate::store::{StoreError, Tx, WriteStore};

/// The signed requests of an upload in parts.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Bytes of each part but the last.
    pub part_size: u64,
    /// One request for each part, in order.
    pub requests: Vec<Presigned>,
}

/// Bytes of each part but the last of an upload of `size` bytes.
pub fn part_size(size: u64) -> u64 {
    const MIB: u64 = 1024 * 1024;
    size.div_ceil(limits::UPLOAD_PARTS).div_ceil(MIB).saturating_mul(MIB).max(limits::UPLOAD_PART_BYTES)
}

/// Signs the parts of an open upload.
pub(super) async fn sign(
    objects: &impl PresignObject,
    file: &ProjectFile,
    upload: &OpenUpload,
    id: &str,
) -> AppResult<Parts> {
    let key = object_key(&file.project_id, &file.file_id, upload.version);
    let (part_size, good_for) = (part_size(upload.size), Duration::from_secs(limits::UPLOAD_PARTS_SECS));
    let count = upload.size.div_ceil(part_size).max(1);
    let mut requests = Vec::new();
    for place in 0..count {
        let size = part_size.min(upload.size - place * part_size);
        let number = u32::try_from(place + 1).unwrap_or(u32::MAX);
        requests.push(objects.presign_part(&key, id, number, size, good_for).await?);
    }
    Ok(Parts { part_size, requests })
}

/// The file's upload in parts that was begun last.
fn open(file: &ProjectFile) -> AppResult<(OpenUpload, String)> {
    let found = file.uploads.iter().rev().find_map(|upload| Some((upload.clone(), upload.parts_id.clone()?)));
    found.ok_or_else(|| {
        AppError::new(ErrorCode::Conflict, "The file has no open upload in parts; begin a new one.")
    })
}

/// Makes the file's bytes of the parts that were sent. They are in the VM when the store's event was worked off. Repeated
/// after a lost answer it answers the file as it stands.
///
/// # Errors
/// `conflict` where there is no such upload, `invalid` where the parts do not make one file; of the stores.
pub async fn complete<S: WriteStore>(
    store: &S,
    objects: &impl UploadParts,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
    parts: &[UploadedPart],
) -> AppResult<ProjectFile> {
    authorize(store, principal, project_id, Scope::Write).await?;
    let file = get::load(store, project_id, file_id).await?;
    let (upload, id) = open(&file)?;
    let count = upload.size.div_ceil(part_size(upload.size)).max(1);
    let in_order = parts.iter().enumerate().all(|(place, part)| part.number as usize == place + 1);
    if !in_order || parts.len() as u64 != count {
        return Err(AppError::invalid("parts", format!("must name the parts 1 to {count}, in this order")));
    }
    match objects.complete_parts(&object_key(project_id, file_id, upload.version), &id, parts).await {
        // Completed before, by the same request.
        Ok(()) | Err(ObjectError::Exists) => get::load(store, project_id, file_id).await,
        Err(ObjectError::NotFound) => Err(AppError::new(
            ErrorCode::Conflict,
            "The upload is over: it was completed, given up, or has run out. Look at the file, or begin a new one.",
        )),
        Err(ObjectError::Refused(why)) => Err(AppError::invalid("parts", why)),
        Err(error) => Err(error.into()),
    }
}

/// Gives the file's open uploads in parts up. A file that has no bytes yet is gone then.
///
/// # Errors
/// `not_found`; of the stores.
pub async fn abort<S: WriteStore>(
    store: &S,
    objects: &impl UploadParts,
    principal: &Principal,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<()> {
    authorize(store, principal, project_id, Scope::Write).await?;
    for _ in 0..8 {
        let mut file = get::load(store, project_id, file_id).await?;
        open(&file)?;
        for upload in &file.uploads {
            if let Some(id) = &upload.parts_id {
                objects.abort_parts(&object_key(project_id, file_id, upload.version), id).await?;
            }
        }
        file.uploads.retain(|upload| upload.parts_id.is_none());
        let tx = if file.object_version == 0 && file.uploads.is_empty() {
            Tx::new().delete(&file).remove(keys::file_pointer(project_id, file_id))
        } else {
            Tx::new().update(&mut file)
        };
        match store.commit(tx).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Conflict, "Others keep changing this file; try again."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_and_not_small() {
        assert_eq!(part_size(1), limits::UPLOAD_PART_BYTES);
        for size in [1, limits::UPLOAD_PRESIGNED_BYTES + 1, limits::UPLOAD_PARTS_BYTES] {
            let part = part_size(size);
            assert!(size.div_ceil(part) <= limits::UPLOAD_PARTS, "{size}");
            assert!((limits::UPLOAD_PART_BYTES..=5 * 1024 * 1024 * 1024).contains(&part), "{size}: {part}");
        }
    }
}
