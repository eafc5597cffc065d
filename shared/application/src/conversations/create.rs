//! Beginning a conversation: its record, its first run and message, and the start of the workflow.

use std::collections::{BTreeMap, BTreeSet};

use pvm_contracts::conversations::{CreateConversation, MessageAccepted};
use pvm_domain::conversation::{Conversation, ConversationAlias, ConversationStatus, Mode, Usage};
use pvm_domain::file::FilePointer;
use pvm_domain::ids::{ConversationId, ProjectId};
use pvm_domain::limits;
use pvm_domain::project::Scope;

use super::find::is_alias;
use super::new_run::{Whose, checked_message, new_run, pins};
use super::{Asked, RunPorts};
use crate::authorize::authorize;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::idempotency::replayed;
use crate::keys;
use crate::ports::{Ambient, GetObject, StartExecution};
use crate::ports_model::KnowModels;
use crate::runs::{Draft, load_conversation, load_run, start_execution};
use crate::store::{ReadStore, StoreError, WriteStore};

/// Begins a conversation with its first message.
///
/// # Errors
/// `invalid` naming the field (unknown agents: `agent_ids`), `conflict` where the alias is taken, those of `authorize`.
pub async fn create<S: WriteStore, O: GetObject, W: StartExecution, M: KnowModels, A: Ambient>(
    ports: RunPorts<'_, S, O, W, M, A>,
    asked: Asked<'_>,
    input: CreateConversation,
) -> AppResult<MessageAccepted> {
    let RunPorts { store, objects, workflow, models, ambient, check_tools } = ports;
    let Asked { principal, project_id, claim } = asked;
    authorize(store, principal, project_id, Scope::Write).await?;
    let now = ambient.now();
    if let Some(id) = replayed(store, claim, now).await? {
        return accepted_before(store, &id).await;
    }
    check(&input)?;
    files_exist(store, project_id, &input).await?;
    let whose = Whose { owner: &principal.owner, project_id, check_tools, now };
    let agents = pins(store, objects, models, whose, &input.agent_ids, &input.budget).await?;
    let conversation = Conversation {
        conversation_id: ambient.new_id(),
        project_id: project_id.clone(),
        owner: principal.owner.clone(),
        alias: input.conversation_id.clone(),
        agent_ids: input.agent_ids,
        mode: input.mode,
        max_turns: input.max_turns.unwrap_or(limits::TURNS_DEFAULT),
        budget: input.budget,
        file_ids: input.file_ids,
        status: ConversationStatus::Idle,
        active_run: None,
        queued: Vec::new(),
        run_count: 0,
        message_count: 0,
        compacted: BTreeMap::new(),
        crowded: BTreeSet::new(),
        usage: Usage::default(),
        forked_from: None,
        counted: pvm_domain::fair_use::Counted::default(),
        created_at: now,
        updated_at: now,
        version: 0,
    };
    let (run, entry) = new_run(&conversation, agents, ambient, input.initial_message, now);
    let id = conversation.conversation_id.clone();
    let mut draft = Draft::new(store, conversation, now);
    draft.add_run(run, entry, false);
    draft.promote().await?;
    draft.within(fair_use::limits_of(store, &principal.owner).await?);
    let alias_key =
        input.conversation_id.as_ref().map(|alias| keys::conversation_alias(&principal.owner, alias));
    if let Some(alias) = input.conversation_id {
        let owner = principal.owner.clone();
        let mut record = ConversationAlias { owner, alias, conversation_id: id.clone(), version: 0 };
        draft.write(|tx| tx.create(&mut record));
    }
    if let Some(claim) = claim {
        draft.write(|tx| tx.create(&mut claim.record(&id, now)));
    }
    // The project's own record is the fence: a deletion that began meanwhile leaves nothing behind.
    draft.write(|tx| tx.require(keys::project(project_id), crate::store::Condition::Present));
    let done = match draft.commit().await {
        Ok(done) => done,
        Err(StoreError::Conflict { key }) if Some(&key) == alias_key.as_ref() => {
            let detail =
                "You have a conversation of this `conversation_id`; send it a message, or take another name.";
            let mut error = AppError::new(ErrorCode::Conflict, detail);
            error.field = Some("conversation_id".to_owned());
            return Err(error);
        }
        Err(StoreError::Conflict { key }) if claim.is_some_and(|claim| claim.key() == key) => {
            return match replayed(store, claim, now).await? {
                Some(id) => accepted_before(store, &id).await,
                None => Err(AppError::new(ErrorCode::Conflict, "The same request is being made; try again.")),
            };
        }
        Err(StoreError::Conflict { key }) if key == keys::project(project_id) => {
            return Err(AppError::not_found("project"));
        }
        Err(other) => return Err(other.into()),
    };
    let Some(run) = done.promoted else {
        return Err(AppError::new(ErrorCode::Internal, "The conversation has no run."));
    };
    // Lost here, the start is made up for by the sweep.
    start_execution(workflow, &run).await?;
    Ok(MessageAccepted {
        conversation_id: id,
        message_id: run.message_id,
        run_id: run.run_id,
        run_status: run.status,
    })
}

/// What the same request made before: its first run, by the place that it has for ever.
async fn accepted_before(store: &impl ReadStore, id: &str) -> AppResult<MessageAccepted> {
    let id: ConversationId = id.parse().map_err(|_| AppError::not_found("conversation"))?;
    let conversation = load_conversation(store, &id).await?;
    let first = store.get::<pvm_domain::conversation::Message>(&keys::message(&id, 1)).await?;
    let first = first.ok_or_else(|| AppError::not_found("conversation"))?;
    let run = load_run(store, &conversation.conversation_id, &first.run_id).await?;
    Ok(MessageAccepted {
        conversation_id: id,
        message_id: first.message_id,
        run_id: run.run_id,
        run_status: run.status,
    })
}

fn check(input: &CreateConversation) -> AppResult<()> {
    let most = limits::AGENTS_PER_CONVERSATION;
    if input.agent_ids.is_empty() || input.agent_ids.len() > most {
        return Err(AppError::invalid("agent_ids", format!("must name 1 to {most} agents")));
    }
    let doubled = input.agent_ids.iter().enumerate().find(|(at, id)| input.agent_ids[..*at].contains(id));
    if let Some((_, id)) = doubled {
        let shown = pvm_domain::text::head_and_tail(id, 80).0;
        return Err(AppError::invalid("agent_ids", format!("names {shown:?} twice")));
    }
    if input.mode == Mode::Parallel && input.agent_ids.len() < 2 {
        return Err(AppError::invalid("mode", "parallel needs at least two agents"));
    }
    checked_message("initial_message", &input.initial_message)?;
    if input.conversation_id.as_deref().is_some_and(|alias| !is_alias(alias)) {
        let rule = "must be 1 to 128 letters, digits or _.- and must not have the form of a generated id";
        return Err(AppError::invalid("conversation_id", rule));
    }
    if input.max_turns.is_some_and(|turns| !(1..=limits::TURNS_MAX).contains(&turns)) {
        return Err(AppError::invalid("max_turns", "must be 1 to 100"));
    }
    if input.file_ids.len() > 100 {
        return Err(AppError::invalid("file_ids", "must name at most 100 files"));
    }
    Ok(input.budget.check()?)
}

async fn files_exist(
    store: &impl ReadStore,
    project: &ProjectId,
    input: &CreateConversation,
) -> AppResult<()> {
    for id in &input.file_ids {
        if store.get::<FilePointer>(&keys::file_pointer(project, id)).await?.is_none() {
            return Err(AppError::invalid(
                "file_ids",
                format!("names {id}, which the project does not have"),
            ));
        }
    }
    Ok(())
}
