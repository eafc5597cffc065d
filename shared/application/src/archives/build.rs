//! Building an archive: the workspace is saved first, where its VM is active, then everything that is stored is packed.

use futures::StreamExt as _;
use pvm_domain::archive::{Archive, ArchiveStatus};
use pvm_domain::ids::{ArchiveId, ProjectId};

use crate::archives::pack::{Item, pack};
use crate::error::AppResult;
use crate::files::save::{self, Budget};
use crate::keys;
use crate::ports::{Ambient, DeleteObject, GetObject, PutObject, VmFiles};
use crate::store::{Listing, StoreError, Tx, WriteStore};
use crate::vm::{lease, ready};

/// Builds an archive that was asked for. One that is ready, failed or gone is left alone, so that a request that comes
/// twice does no harm.
///
/// # Errors
/// Of the stores where the outcome could not be noted; an archive that cannot be built is noted as failed.
pub async fn build<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
    archive_id: &ArchiveId,
) -> AppResult<()>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let archive: Option<Archive> = store.get(&keys::archive(project_id, archive_id)).await?;
    let Some(mut archive) = archive.filter(|archive| archive.status == ArchiveStatus::Building) else {
        return Ok(());
    };
    forget_old(store, objects, ambient, project_id).await?;
    // A VM that cannot be asked does not stop it: what is stored is what counts.
    if let Err(error) = save_first(store, objects, vm, ambient, project_id).await {
        tracing::warn!(project.id = %project_id, ?error, "an archive is built without what the VM changed last");
    }
    match packed(store, objects, project_id, &archive).await {
        Ok((entries, size, sha256)) => {
            archive.status = ArchiveStatus::Ready;
            (archive.entries, archive.size, archive.sha256) = (entries, size, Some(sha256));
        }
        Err(error) => {
            tracing::warn!(project.id = %project_id, ?error, "an archive could not be built");
            archive.status = ArchiveStatus::Failed;
            archive.reason = Some(error.detail);
        }
    }
    let tx =
        Tx::new().require(keys::project(project_id), crate::store::Condition::Present).update(&mut archive);
    match store.commit(tx).await {
        Ok(_) => Ok(()),
        // The project was deleted, or another delivery of the request was faster.
        Err(StoreError::Conflict { key }) => {
            if key == keys::project(project_id) {
                objects.delete(&archive.object_key()).await?;
            }
            Ok(())
        }
        Err(other) => Err(other.into()),
    }
}

async fn save_first<S, O, V, A>(
    store: &S,
    objects: &O,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<()>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject,
    V: VmFiles,
    A: Ambient,
{
    let lease = lease::load(store, ambient, project_id).await?;
    let Some(active) = ready::ready_of(&lease) else { return Ok(()) };
    save::reconcile(store, objects, vm, ambient, project_id, &active.vm_id, Budget::step()).await.map(|_| ())
}

/// Answers entries, size and hash.
async fn packed<S: WriteStore, O: PutObject + GetObject>(
    store: &S,
    objects: &O,
    project_id: &ProjectId,
    archive: &Archive,
) -> AppResult<(u64, u64, String)> {
    let (files, links) =
        futures::try_join!(save::records(store, project_id), save::links(store, project_id))?;
    let mut items: Vec<Item> = files
        .into_iter()
        .filter(|file| file.object_version > 0)
        .map(|file| Item::File {
            object: file.current_key(),
            mode: file.mode,
            size: file.size,
            changed: file.updated_at,
            path: file.path.as_str().to_owned(),
        })
        .collect();
    items.extend(links.into_iter().map(|link| Item::Link {
        path: link.path.as_str().to_owned(),
        target: link.target,
        changed: link.updated_at,
    }));
    let entries = items.len() as u64;
    let (size, sha256) = stored(objects, items, archive).await?;
    Ok((entries, size, sha256))
}

/// The port takes a stream that owns what it reads from; the packer borrows the objects. A channel of one piece between
/// the two keeps both, and memory bounded.
async fn stored<O: PutObject + GetObject>(
    objects: &O,
    items: Vec<Item>,
    archive: &Archive,
) -> AppResult<(u64, String)> {
    let (give, mut take) = tokio::sync::mpsc::channel::<std::io::Result<bytes::Bytes>>(1);
    let packing = async {
        let mut pieces = std::pin::pin!(pack(objects, items));
        while let Some(piece) = pieces.next().await {
            if give.send(piece).await.is_err() {
                break;
            }
        }
        drop(give);
    };
    let pieces = futures::stream::poll_fn(move |context| take.poll_recv(context));
    let key = archive.object_key();
    let (stored, ()) = futures::join!(objects.put_stream(&key, Box::pin(pieces)), packing);
    let info = stored?;
    Ok((info.size, info.sha256.unwrap_or_default()))
}

/// Forgets archives whose time is over, with their objects.
async fn forget_old<S: WriteStore, O: DeleteObject, A: Ambient>(
    store: &S,
    objects: &O,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<()> {
    let listing = Listing::of(keys::project_partition(project_id), "ARC#");
    for old in store.list::<Archive>(listing).await?.items {
        if old.expires_at() <= ambient.now() {
            objects.delete(&old.object_key()).await?;
            store.commit(Tx::new().remove(keys::archive(project_id, &old.archive_id))).await?;
        }
    }
    Ok(())
}
