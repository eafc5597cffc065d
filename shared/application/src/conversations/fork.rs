//! A fork: a new conversation with the history of another up to some event. Messages and calls are copied as they stood
//! then, so that each side goes on without the other. The VM is not: it is the project's, with its services and files, and
//! shared by all its conversations, so a fork's agents find the workspace as it is now.

use std::collections::{BTreeMap, BTreeSet};

use pvm_domain::Timestamp;
use pvm_domain::conversation::{
    Author, CallResult, CallStatus, Conversation, ConversationStatus, Message, ToolCall, Usage,
};
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
    let messages = messages(store, &origin_id, &told.events).await?;
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
    let ended = &told.ended_calls;
    for (place, message) in (1..).zip(messages) {
        copy(store, &fork, Message { place, ..message }, ended).await?;
    }
    tell(store, &fork.conversation_id, told.events).await?;
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

/// What a log has told up to some event.
struct Told {
    /// The events of messages that are complete then.
    events: Vec<Event>,
    /// Tool calls that have ended then.
    ended_calls: BTreeSet<String>,
}

async fn told_up_to(store: &impl ReadStore, log: &LogId, at: u64) -> AppResult<Told> {
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
    let ids = |kind: EventType, field: &str| -> BTreeSet<String> {
        let of_kind = events.iter().filter(|event| event.kind == kind);
        of_kind.filter_map(|event| text_of(event, field).map(str::to_owned)).collect()
    };
    let complete = ids(EventType::MessageCompleted, "message_id");
    let ended_calls = ids(EventType::ToolFinished, "tool_call_id");
    events.retain(|event| {
        matches!(event.kind, EventType::MessageCreated | EventType::MessageCompleted)
            && text_of(event, "message_id").is_some_and(|id| complete.contains(id))
    });
    Ok(Told { events, ended_calls })
}

fn text_of<'a>(event: &'a Event, field: &str) -> Option<&'a str> {
    event.data.get(field)?.as_str()
}

/// The messages that were complete then, in their order; last those of users that no run had taken up, which have no
/// place in the origin yet and here are part of what the next run reads.
async fn messages(
    store: &impl ReadStore,
    conversation: &ConversationId,
    told: &[Event],
) -> AppResult<Vec<Message>> {
    let ids: BTreeSet<&str> = told.iter().filter_map(|event| text_of(event, "message_id")).collect();
    let mut found: Vec<Message> = Vec::new();
    let mut position = None;
    loop {
        let listing =
            Listing::of(keys::conversation_partition(conversation), "M#").page(100, position.take());
        let page = store.list::<Message>(listing).await?;
        found.extend(page.items.into_iter().filter(|message| ids.contains(message.message_id.as_str())));
        position = page.next;
        if position.is_none() {
            break;
        }
    }
    let placed: BTreeSet<String> = found.iter().map(|message| message.message_id.to_string()).collect();
    let waiting = told.iter().filter_map(|event| waiting_message(conversation, event));
    found.extend(waiting.filter(|message| !placed.contains(message.message_id.as_str())));
    Ok(found)
}

/// A user's message as its event tells it.
fn waiting_message(conversation: &ConversationId, event: &Event) -> Option<Message> {
    if event.kind != EventType::MessageCompleted || text_of(event, "author") != Some("user") {
        return None;
    }
    let id = text_of(event, "message_id")?.parse().ok()?;
    let run = text_of(event, "run_id")?.parse().ok()?;
    let text = text_of(event, "text")?.to_owned();
    Some(Message::new(conversation.clone(), id, run, Author::User, text, event.at))
}

/// Copies a message with its calls, as they stood then.
async fn copy<S: WriteStore>(
    store: &S,
    fork: &Conversation,
    mut message: Message,
    ended: &BTreeSet<String>,
) -> AppResult<()> {
    let mut tx = Tx::new();
    for place in &message.calls {
        let key = keys::tool_call(&message.conversation_id, &place.tool_call_id);
        if let Some(mut call) = store.get::<ToolCall>(&key).await? {
            call.conversation_id = fork.conversation_id.clone();
            if !ended.contains(call.tool_call_id.as_str()) {
                leave_out(&mut call, fork.created_at);
            }
            tx = tx.create(&mut call);
        }
    }
    message.conversation_id = fork.conversation_id.clone();
    store.commit(tx.create(&mut message)).await?;
    Ok(())
}

/// A call that had not ended then: what became of it later is the origin's.
fn leave_out(call: &mut ToolCall, now: Timestamp) {
    let text = "This conversation was forked while it had not ended: what became of it is not part of this one. Look at \
                the state of things before you repeat it.";
    let (text, structured, output_path) = (text.to_owned(), None, None);
    call.status = CallStatus::Cancelled;
    call.result = Some(CallResult { is_error: true, text, structured, output_path });
    call.finished_at = Some(now);
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
