//! What the VM has and the store cannot take, such as a file whose name is no text: told to the user, because it goes with
//! the VM.

use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::file::Unstored;
use pvm_domain::ids::ProjectId;
use pvm_domain::text::head_and_tail;
use serde_json::json;

use crate::error::AppResult;
use crate::keys;
use crate::ports::Clock;
use crate::store::{Condition, ReadStore, StoreError, Tx, WriteStore};

/// Paths that are named; the rest is counted.
const NAMED: usize = 20;
/// Bytes of a path that are shown.
const SHOWN: usize = 300;

/// How much of the project's workspace is not stored.
///
/// # Errors
/// Of the store.
pub async fn load(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Unstored> {
    let found = store.get(&keys::unstored(project_id)).await?;
    Ok(found.unwrap_or_else(|| Unstored::none(project_id.clone())))
}

/// Notes the paths that were found, with an event where they are others than those known.
///
/// # Errors
/// Of the store.
pub(super) async fn note(
    store: &impl WriteStore,
    clock: &impl Clock,
    project_id: &ProjectId,
    mut paths: Vec<String>,
) -> AppResult<()> {
    paths.sort();
    paths.dedup();
    let total = paths.len() as u64;
    let named: Vec<String> = paths.iter().take(NAMED).map(|path| head_and_tail(path, SHOWN).0).collect();
    let mut known = load(store, project_id).await?;
    if (known.total, &known.paths) == (total, &named) {
        return Ok(());
    }
    (known.total, known.paths) = (total, named);
    let data = json!({"total": known.total, "paths": known.paths});
    let event = NewEvent::new(EventType::FileUnstored, clock.now(), data);
    let tx = Tx::new()
        .require(keys::project(project_id), Condition::Present)
        .update(&mut known)
        .append(&LogId::Project(project_id.clone()), event);
    match store.commit(tx).await {
        // Another pass has noted what it saw, or the project is gone.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}
