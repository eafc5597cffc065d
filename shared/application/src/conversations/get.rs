//! Looking at conversations.

use pvm_contracts::conversations as wire;
use pvm_domain::conversation::core::Phase;
use pvm_domain::conversation::{Approval, ApprovalStatus, Conversation, Run, lane_run};
use pvm_domain::ids::{ProjectId, RunId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use super::find::find;
use crate::authorize::authorize;
use crate::error::AppResult;
use crate::keys;
use crate::store::{Index, Listing, Position, ReadStore};

/// One conversation.
///
/// # Errors
/// `not_found`, `forbidden`; of the store.
pub async fn get(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
) -> AppResult<wire::Conversation> {
    let conversation = find(store, principal, project_id, name, Scope::Read).await?;
    view(store, conversation).await
}

/// A project's conversations, newest first, by page.
///
/// # Errors
/// `not_found`, `forbidden`; of the store.
pub async fn list(
    store: &impl ReadStore,
    principal: &Principal,
    project_id: &ProjectId,
    limit: u32,
    after: Option<Position>,
) -> AppResult<(Vec<wire::Conversation>, Option<Position>)> {
    authorize(store, principal, project_id, Scope::Read).await?;
    let listing = Listing::of(keys::project_partition(project_id), "C#")
        .from_index(Index::Owner)
        .newest_first()
        .page(limit, after);
    let page = store.list::<Conversation>(listing).await?;
    let mut views = Vec::new();
    for conversation in page.items {
        views.push(view(store, conversation).await?);
    }
    Ok((views, page.next))
}

/// A conversation as users see it, with its run and the approvals that wait.
///
/// # Errors
/// Of the store.
pub async fn view(store: &impl ReadStore, conversation: Conversation) -> AppResult<wire::Conversation> {
    let run = match &conversation.active_run {
        Some(id) => load(store, &conversation, id).await?,
        None => last(store, &conversation).await?,
    };
    let mut usage = conversation.usage;
    let mut approvals = Vec::new();
    if let Some(run) = run.as_ref().filter(|run| !run.is_over()) {
        for run in std::iter::once(run.clone()).chain(lanes(store, run).await?) {
            usage.add(&if run.lane.is_some() { run.core.usage.of_lane() } else { run.core.usage });
            for call in run.core.acting() {
                let Some(id) = &call.approval_id else { continue };
                let approval: Option<Approval> = store.get(&keys::approval(&run.conversation_id, id)).await?;
                approvals.extend(approval.filter(|approval| approval.status == ApprovalStatus::Pending));
            }
        }
    }
    Ok(wire::Conversation {
        conversation_id: conversation.conversation_id,
        alias: conversation.alias,
        project_id: conversation.project_id,
        agent_ids: conversation.agent_ids,
        mode: conversation.mode,
        max_turns: conversation.max_turns,
        budget: conversation.budget,
        file_ids: conversation.file_ids,
        status: conversation.status,
        run: run.map(run_view),
        queued: conversation.queued,
        run_count: conversation.run_count,
        message_count: conversation.message_count,
        approvals: approvals.into_iter().map(approval_view).collect(),
        usage,
        forked_at: conversation.forked_from.as_ref().map(|(_, at)| *at),
        forked_from: conversation.forked_from.map(|(id, _)| id),
        created_at: conversation.created_at,
        updated_at: conversation.updated_at,
        version: conversation.version,
    })
}

/// The lanes of a parallel run that are under way; what the others used is counted already.
async fn lanes(store: &impl ReadStore, run: &Run) -> AppResult<Vec<Run>> {
    let Phase::Lanes { open } = &run.core.phase else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for index in open {
        let lane: Option<Run> =
            store.get(&keys::run(&run.conversation_id, &lane_run(&run.run_id, *index))).await?;
        found.extend(lane.filter(|lane| !lane.is_over()));
    }
    Ok(found)
}

async fn load(store: &impl ReadStore, conversation: &Conversation, id: &RunId) -> AppResult<Option<Run>> {
    Ok(store.get(&keys::run(&conversation.conversation_id, id)).await?)
}

/// The newest run: ids sort by the time they were made.
async fn last(store: &impl ReadStore, conversation: &Conversation) -> AppResult<Option<Run>> {
    let partition = keys::conversation_partition(&conversation.conversation_id);
    let listing = Listing::of(partition, "RUN#").newest_first().page(1, None);
    Ok(store.list::<Run>(listing).await?.items.into_iter().next())
}

fn run_view(run: Run) -> wire::Run {
    wire::Run {
        run_id: run.run_id,
        status: run.status,
        outcome: run.outcome,
        usage: run.core.usage,
        agent_id: run.core.turn.map(|turn| turn.agent_id),
        created_at: run.created_at,
        finished_at: run.finished_at,
    }
}

pub(super) fn approval_view(approval: Approval) -> wire::Approval {
    wire::Approval {
        approval_id: approval.approval_id,
        run_id: approval.run_id,
        tool_call_id: approval.tool_call_id,
        agent_id: approval.agent_id,
        name: approval.name,
        arguments: approval.arguments,
        request_hash: approval.request_hash,
        status: approval.status,
        decided_by: approval.decided_by,
        comment: approval.comment,
        expires_at: approval.expires_at,
        created_at: approval.created_at,
    }
}
