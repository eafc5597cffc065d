//! Erasing a project that is marked as being deleted, in bounded batches that can be repeated. Nothing is erased of a
//! project that is not marked.

use pvm_domain::conversation::{Conversation, Message};
use pvm_domain::event::LogId;
use pvm_domain::file::{DeletedFile, FileVersion, ProjectFile};
use pvm_domain::ids::{ConversationId, ProjectId};
use pvm_domain::project::Project;
use pvm_domain::service::Service;

use crate::conversations::cancel::cancel_now;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{
    Ambient, DeleteObject, KeepSecrets, RunCommands, SendTask, StartExecution, StopExecution,
};
use crate::store::{Index, Listing, Purge, ReadStore, Record, Tx, WriteStore};

/// Things removed by one call.
const BATCH: u32 = 1_000;
/// Counted records removed by one transaction, each with a write of its own beside that of the counter.
const COUNTED: u32 = 90;
/// Conversations looked at together.
const LISTED: u32 = 100;

/// The marked project; `None` where it is gone already.
async fn marked(store: &impl ReadStore, project_id: &ProjectId) -> AppResult<Option<Project>> {
    match store.get::<Project>(&keys::project(project_id)).await? {
        Some(project) if !project.deleting => {
            Err(AppError::new(ErrorCode::Conflict, "The project is not being deleted; nothing was removed."))
        }
        found => Ok(found),
    }
}

/// Ends every run of the project's conversations: a VM that is ended or a project that is deleted has none. Answers
/// whether there may be more.
///
/// # Errors
/// Of the store.
pub async fn stop_runs<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<bool>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    A: Ambient,
{
    let mut after = None;
    loop {
        let listing = Listing::of(keys::project_partition(project_id), "C#").from_index(Index::Owner);
        let page = store.list::<Conversation>(listing.page(LISTED, after)).await?;
        for conversation in page.items.into_iter().filter(|one| one.active_run.is_some()) {
            cancel_now(store, workflow, vm, ambient, conversation, "The project's VM was ended.").await?;
        }
        after = page.next;
        if after.is_none() {
            return Ok(false);
        }
    }
}

/// Removes values of secrets, and objects of the project: file versions, kept output, archives. Answers whether there
/// are more.
///
/// # Errors
/// Of the stores; `conflict` where the project is not marked.
pub async fn objects(
    store: &impl ReadStore,
    objects: &impl DeleteObject,
    secrets: &impl KeepSecrets,
    project_id: &ProjectId,
) -> AppResult<bool> {
    marked(store, project_id).await?;
    crate::secrets::rules::erase(store, secrets, project_id).await?;
    for prefix in ["p", "c", "a"].map(|kind| format!("{kind}/{project_id}/")) {
        if objects.delete_prefix(&prefix, BATCH).await? > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes records and events: those of the conversations, then the project's, its own record last. Answers whether
/// there are more.
///
/// # Errors
/// Of the store; `conflict` where the project is not marked.
pub async fn records(store: &impl WriteStore, project_id: &ProjectId) -> AppResult<bool> {
    let Some(project) = marked(store, project_id).await? else { return Ok(false) };
    let listing =
        Listing::of(keys::project_partition(project_id), "C#").from_index(Index::Owner).page(10, None);
    let conversations = store.list::<Conversation>(listing).await?;
    for conversation in &conversations.items {
        conversation_records(store, conversation).await?;
    }
    if !conversations.items.is_empty() {
        return Ok(true);
    }
    if store.purge(Purge::Log(LogId::Project(project_id.clone())), BATCH).await? > 0 {
        return Ok(true);
    }
    // What is counted in the owner's name is given back in the transaction that removes it.
    if counted::<Service>(store, project_id, "SVC#").await?
        || counted::<ProjectFile>(store, project_id, "F#").await?
        || counted::<FileVersion>(store, project_id, "FV#").await?
        || counted::<DeletedFile>(store, project_id, "GONE#").await?
    {
        return Ok(true);
    }
    // Everything else of the partition first, so that an interrupted deletion is still found by its mark.
    let partition = keys::project_partition(project_id);
    let listed = keys::project(project_id);
    if store.purge(Purge::Records { pk: partition, keep: Some(listed.sk) }, BATCH).await? > 0 {
        return Ok(true);
    }
    store.commit(Tx::new().delete(&project)).await?;
    Ok(false)
}

/// Removes a batch of records that count towards their owner's limits. Answers whether there were any.
async fn counted<R: Record>(
    store: &impl WriteStore,
    project_id: &ProjectId,
    prefix: &str,
) -> AppResult<bool> {
    let listing = Listing::of(keys::project_partition(project_id), prefix).page(COUNTED, None);
    let found = store.list::<R>(listing).await?.items;
    store.commit(found.iter().fold(Tx::new(), Tx::delete)).await?;
    Ok(!found.is_empty())
}

/// Removes text pieces of messages, which would outlive their conversation for two hours otherwise.
async fn text_pieces(store: &impl WriteStore, conversation: &ConversationId) -> AppResult<()> {
    let mut after = None;
    loop {
        let listing = Listing::of(keys::conversation_partition(conversation), "M#").newest_first();
        let page = store.list::<Message>(listing.page(LISTED, after)).await?;
        for message in page.items {
            while store.purge(Purge::Deltas(message.message_id.to_string()), BATCH).await? > 0 {}
        }
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn conversation_records(store: &impl WriteStore, conversation: &Conversation) -> AppResult<()> {
    let id = &conversation.conversation_id;
    text_pieces(store, id).await?;
    while store.purge(Purge::Log(LogId::Conversation(id.clone())), BATCH).await? > 0 {}
    let (pk, own) = (keys::conversation_partition(id), keys::conversation(id));
    while store.purge(Purge::Records { pk: pk.clone(), keep: Some(own.sk.clone()) }, BATCH).await? > 0 {}
    let mut tx = Tx::new().remove(own);
    if let Some(alias) = &conversation.alias {
        tx = tx.remove(keys::conversation_alias(&conversation.owner, alias));
    }
    store.commit(tx).await?;
    Ok(())
}
