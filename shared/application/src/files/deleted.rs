//! Files that the VM deleted: kept for a while with all their versions, listed, and forgotten after their time. (A file
//! that is deleted through the API is gone at once: whoever says so means it.)

use jiff::SignedDuration;
use pvm_domain::file::{DeletedFile, ProjectFile};
use pvm_domain::ids::{FileId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::AppResult;
use crate::files::history;
use crate::keys;
use crate::ports::{Clock, DeleteObject};
use crate::store::{Index, Listing, Page, Position, ReadStore, StoreError, Tx, WriteStore};

/// Objects that one request removes: far more than a file has versions.
const OBJECTS: u32 = 1_000;

/// One page of the deleted files whose path started with `prefix`, oldest file first. The prefix is looked for within
/// the page, so that a page may have fewer entries than `limit` and still be followed by another.
///
/// # Errors
/// Of authorization and the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    prefix: &str,
    limit: u32,
    after: Option<Position>,
) -> AppResult<Page<DeletedFile>> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let listing = Listing::of(keys::project_partition(project_id), "GONE#");
    let mut page: Page<DeletedFile> = store.list(listing.page(limit, after)).await?;
    page.items.retain(|deleted| !deleted.erasing && deleted.file.path.as_str().starts_with(prefix));
    Ok(page)
}

/// The deleted file of that id, if there is one that can be had back.
///
/// # Errors
/// Of the store.
pub(super) async fn find(
    store: &impl ReadStore,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<Option<DeletedFile>> {
    Ok(load(store, project_id, file_id).await?.filter(|deleted| !deleted.erasing))
}

/// The same, also where somebody began to forget it.
///
/// # Errors
/// Of the store.
pub(super) async fn load(
    store: &impl ReadStore,
    project_id: &ProjectId,
    file_id: &FileId,
) -> AppResult<Option<DeletedFile>> {
    Ok(store.get(&keys::deleted_file(project_id, file_id)).await?)
}

/// Keeps a file that the VM deleted, instead of its record.
pub(super) fn keep(file: &ProjectFile, clock: &impl Clock) -> Tx {
    let mut kept = DeletedFile::of(file.clone(), clock.now());
    Tx::new().delete(file).remove(keys::file_pointer(&file.project_id, &file.file_id)).create(&mut kept)
}

/// Forgets a deleted file: marked first, so that nobody brings it back meanwhile, then its objects, its versions, and its
/// own record last, so that whoever is interrupted is followed by the next. Answers whether it is gone.
///
/// # Errors
/// Of the stores; the next call goes on.
pub(super) async fn forget(
    store: &impl WriteStore,
    objects: &impl DeleteObject,
    mut deleted: DeletedFile,
) -> AppResult<bool> {
    if !deleted.erasing {
        deleted.erasing = true;
        match store.commit(Tx::new().update(&mut deleted)).await {
            Ok(_) => {}
            // It was brought back, or somebody else forgets it.
            Err(StoreError::Conflict { .. }) => return Ok(false),
            Err(other) => return Err(other.into()),
        }
    }
    let (project_id, file_id) = (&deleted.file.project_id, &deleted.file.file_id);
    objects.delete_prefix(&format!("p/{project_id}/{file_id}/"), OBJECTS).await?;
    history::forget(store, project_id, file_id).await?;
    match store.commit(Tx::new().delete(&deleted)).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

/// Forgets what was deleted longer than `kept` ago, at most `most` files of each shard. Answers how many went.
///
/// # Errors
/// Of the stores; the next call goes on.
pub async fn sweep(
    store: &impl WriteStore,
    objects: &impl DeleteObject,
    clock: &impl Clock,
    kept: SignedDuration,
    most: u32,
) -> AppResult<u32> {
    let until = clock.now().saturating_sub(kept).unwrap_or(pvm_domain::Timestamp::MIN);
    let mut gone = 0;
    for shard in 0..keys::SWEEP_SHARDS {
        let partition = keys::sweep_partition(keys::Sweep::DeletedFile, shard);
        let mut listing = Listing::of(partition, "").from_index(Index::Sweep).page(most, None);
        listing.up_to = Some(keys::sweep_up_to(until));
        for listed in store.list::<DeletedFile>(listing).await?.items {
            // The index may lag: the record itself decides.
            let key = keys::deleted_file(&listed.file.project_id, &listed.file.file_id);
            let found: Option<DeletedFile> = store.get(&key).await?;
            if let Some(found) = found.filter(|found| found.deleted_at <= until) {
                gone += u32::from(forget(store, objects, found).await?);
            }
        }
    }
    Ok(gone)
}
