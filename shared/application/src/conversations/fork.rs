//! A fork: a new conversation with the history of another up to some event. Messages and calls are copied, so that each
//! side goes on without the other. The VM is the project's and is shared, as it is between all its conversations.

use std::collections::{BTreeMap, BTreeSet};

use pvm_domain::conversation::{Conversation, ConversationStatus, Message, ToolCall, Usage};
use pvm_domain::event::{Event, EventType, LogId, NewEvent};
use pvm_domain::ids::{ConversationId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use super::find::find;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::Ambient;
use crate::runs::load_conversation;
use crate::store::{Condition, Listing, ReadStore, StoreError, Tx, WriteStore};

/// Records and events of one transaction, which holds 100; each event may cost one more.
const BATCH: usize = 40;
/// Events read at once.
const PAGE: u32 = 500;

/// Forks a conversation after the event `at` of its log; absent means all of it.
///
/// # Errors
/// `not_found`, `forbidden`; `invalid` where the log has no such event.
pub async fn fork<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
    at: Option<u64>,
    claim: Option<&Claim>,
) -> AppResult<Conversation> {
    let origin = find(store, principal, project_id, name, Scope::Write).await?;
    let now = ambient.now();
    if let Some(id) = replayed(store, claim, now).await? {
        let id = id.parse().map_err(|_| AppError::not_found("conversation"))?;
        return load_conversation(store, &id).await;
    }
    let log = LogId::Conversation(origin.conversation_id.clone());
    let head = store.log_head(&log).await?;
    let at = at.unwrap_or(head);
    if at == 0 || at > head {
        return Err(AppError::invalid(
            "at",
            format!("must be 1 to {head}, the last event of the conversation"),
        ));
    }
    let told = told_up_to(store, &log, at).await?;
    let origin_id = origin.conversation_id.clone();
    let messages = messages(store, &origin_id, &told).await?;
    let mut fork = Conversation {
        conversation_id: ambient.new_id(),
        owner: principal.owner.clone(),
        alias: None,
        status: ConversationStatus::Idle,
        active_run: None,
        queued: Vec::new(),
        run_count: 0,
        message_count: messages.len() as u64,
        compacted: BTreeMap::new(),
        crowded: BTreeSet::new(),
        usage: Usage::default(),
        forked_from: Some((origin_id.clone(), at)),
        counted: pvm_domain::fair_use::Counted::default(),
        created_at: now,
        updated_at: now,
        version: 0,
        ..origin
    };
    copy(store, &origin_id, &fork.conversation_id, messages).await?;
    tell(store, &fork.conversation_id, told).await?;
    // The conversation itself comes last: before it is there, nobody finds the copies.
    let mut tx = Tx::new().create(&mut fork);
    if let Some(claim) = claim {
        tx = tx.create(&mut claim.record(&fork.conversation_id, now));
    }
    // The project's own record is the fence: a deletion that began meanwhile leaves nothing behind.
    tx = tx.require(keys::project(project_id), Condition::Present);
    match store.commit(tx).await {
        Ok(_) => Ok(fork),
        Err(StoreError::Conflict { key }) if key == keys::project(project_id) => {
            Err(AppError::not_found("project"))
        }
        // The same request, made at the same time, has its fork; that one is the answer.
        Err(StoreError::Conflict { .. }) => match replayed(store, claim, now).await? {
            Some(id) => {
                let id = id.parse().map_err(|_| AppError::not_found("conversation"))?;
                load_conversation(store, &id).await
            }
            None => Err(AppError::new(ErrorCode::Conflict, "The same request is being made; try again.")),
        },
        Err(other) => Err(other.into()),
    }
}

/// The events of messages that are complete at `at`, with the ids of those messages.
async fn told_up_to(store: &impl ReadStore, log: &LogId, at: u64) -> AppResult<Vec<Event>> {
    let mut events = Vec::new();
    let mut after = 0;
    loop {
        let page = store.events(log, after, PAGE).await?;
        let Some(last) = page.last().and_then(|event| event.seq) else { break };
        after = last;
        events.extend(page.into_iter().filter(|event| event.seq.is_some_and(|seq| seq <= at)));
        if after >= at {
            break;
        }
    }
    let complete: BTreeSet<String> = events
        .iter()
        .filter(|event| event.kind == EventType::MessageCompleted)
        .filter_map(|event| message_id(event).map(str::to_owned))
        .collect();
    events.retain(|event| {
        matches!(event.kind, EventType::MessageCreated | EventType::MessageCompleted)
            && message_id(event).is_some_and(|id| complete.contains(id))
    });
    Ok(events)
}

fn message_id(event: &Event) -> Option<&str> {
    event.data.get("message_id")?.as_str()
}

/// The messages that were complete then, in their order.
async fn messages(
    store: &impl ReadStore,
    conversation: &ConversationId,
    told: &[Event],
) -> AppResult<Vec<Message>> {
    let ids: BTreeSet<&str> = told.iter().filter_map(message_id).collect();
    let mut found = Vec::new();
    let mut position = None;
    loop {
        let listing =
            Listing::of(keys::conversation_partition(conversation), "M#").page(100, position.take());
        let page = store.list::<Message>(listing).await?;
        found.extend(page.items.into_iter().filter(|message| ids.contains(message.message_id.as_str())));
        position = page.next;
        if position.is_none() {
            return Ok(found);
        }
    }
}

async fn copy<S: WriteStore>(
    store: &S,
    origin: &ConversationId,
    fork: &ConversationId,
    messages: Vec<Message>,
) -> AppResult<()> {
    for (place, mut message) in (1..).zip(messages) {
        let mut tx = Tx::new();
        for call in &message.calls {
            let key = keys::tool_call(origin, &call.tool_call_id);
            if let Some(mut call) = store.get::<ToolCall>(&key).await? {
                call.conversation_id = fork.clone();
                tx = tx.create(&mut call);
            }
        }
        message.conversation_id = fork.clone();
        message.place = place;
        store.commit(tx.create(&mut message)).await?;
    }
    Ok(())
}

async fn tell<S: WriteStore>(store: &S, fork: &ConversationId, events: Vec<Event>) -> AppResult<()> {
    let log = LogId::Conversation(fork.clone());
    for some in events.chunks(BATCH) {
        let mut tx = Tx::new();
        for event in some {
            let (agent_id, data) = (event.agent_id.clone(), event.data.clone());
            tx = tx.append(&log, NewEvent { kind: event.kind, at: event.at, agent_id, data });
        }
        store.commit(tx).await?;
    }
    Ok(())
}
