//! Uploads that were announced and never came: given up after their time, with the parts they left and the record of a
//! file that never was.

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::{ProjectFile, object_key};
use serde_json::json;

use crate::error::AppResult;
use crate::keys;
use crate::ports::{Ambient, UploadParts};
use crate::store::{Index, Listing, StoreError, Tx, WriteStore};

/// Gives up what is due, at most `most` files; answers how many uploads were given up.
///
/// # Errors
/// Of the stores; the next call goes on.
pub async fn sweep<S: WriteStore, A: Ambient>(
    store: &S,
    objects: &impl UploadParts,
    ambient: &A,
    most: u32,
) -> AppResult<u32> {
    let mut given_up = 0;
    for shard in 0..keys::SWEEP_SHARDS {
        let partition = keys::sweep_partition(keys::Sweep::Upload, shard);
        let mut listing = Listing::of(partition, "").from_index(Index::Sweep).page(most, None);
        listing.up_to = Some(keys::sweep_up_to(ambient.now()));
        for listed in store.list::<ProjectFile>(listing).await?.items {
            // The index may lag behind.
            let file: Option<ProjectFile> = store.get(&keys::file(&listed.project_id, &listed.path)).await?;
            if let Some(file) = file.filter(|file| file.file_id == listed.file_id) {
                given_up += give_up(store, objects, ambient, file).await?;
            }
        }
    }
    Ok(given_up)
}

async fn give_up<S: WriteStore, A: Ambient>(
    store: &S,
    objects: &impl UploadParts,
    ambient: &A,
    mut file: ProjectFile,
) -> AppResult<u32> {
    let now = ambient.now();
    let (late, open): (Vec<_>, Vec<_>) = file.uploads.iter().cloned().partition(|upload| upload.until <= now);
    for upload in &late {
        if let Some(id) = &upload.parts_id {
            objects.abort_parts(&object_key(&file.project_id, &file.file_id, upload.version), id).await?;
        }
    }
    if late.is_empty() {
        return Ok(0);
    }
    let data =
        json!({"file_id": file.file_id, "path": file.path, "change": "upload_expired", "origin": "user"});
    let event = NewEvent::new(EventType::FileChanged, now, data);
    let log = LogId::Project(file.project_id.clone());
    let tx = if file.object_version == 0 && open.is_empty() {
        Tx::new().delete(&file).remove(keys::file_pointer(&file.project_id, &file.file_id))
    } else {
        file.uploads = open;
        Tx::new().update(&mut file)
    };
    let tx = tx.require(keys::project(&file.project_id), crate::store::Condition::Present);
    match store.commit(tx.append(&log, event)).await {
        Ok(_) => Ok(u32::try_from(late.len()).unwrap_or(u32::MAX)),
        // It arrived at this moment, or the project is gone.
        Err(StoreError::Conflict { .. }) => Ok(0),
        Err(other) => Err(other.into()),
    }
}
