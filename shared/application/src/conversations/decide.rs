//! A person's decision on a call that waits for one.

use pvm_contracts::conversations::{Approval, DecideApproval, Decision};
use pvm_domain::conversation::{self, ApprovalStatus};
use pvm_domain::ids::{ApprovalId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use super::find::find;
use super::get::approval_view;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{Ambient, SendTask};
use crate::runs::{decide_approval, load_approval, send_approval};
use crate::store::WriteStore;

/// Approves or denies. Deciding the same again is fine and wakes the workflow again; deciding otherwise is a conflict.
///
/// # Errors
/// `not_found`, `forbidden`, `invalid`; `conflict` where it was decided otherwise or ran out.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn decide<S: WriteStore, K: SendTask, A: Ambient>(
    store: &S,
    tasks: &K,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    name: &str,
    approval_id: &str,
    input: DecideApproval,
) -> AppResult<Approval> {
    let conversation = find(store, principal, project_id, name, Scope::Write).await?;
    let id: ApprovalId = approval_id.parse().map_err(|_| AppError::not_found("approval"))?;
    if input.comment.as_ref().is_some_and(|comment| comment.chars().count() > 1000) {
        return Err(AppError::invalid("comment", "must have at most 1,000 characters"));
    }
    let asked = load_approval(store, &conversation.conversation_id, &id).await?;
    if input.request_hash.as_ref().is_some_and(|hash| *hash != asked.request_hash) {
        let detail = "The decision names another request than the one that waits; look at it again.";
        let mut error = AppError::new(ErrorCode::Conflict, detail);
        error.field = Some("request_hash".to_owned());
        return Err(error);
    }
    let wanted = match input.decision {
        Decision::Approve => ApprovalStatus::Approved,
        Decision::Deny => ApprovalStatus::Denied,
    };
    let (now, owner) = (ambient.now(), principal.owner.clone());
    let note = |approval: &mut conversation::Approval| {
        approval.status = if approval.expires_at <= now { ApprovalStatus::Expired } else { wanted };
        approval.decided_by = Some(owner.clone());
        approval.comment.clone_from(&input.comment);
    };
    let (decided, run) = decide_approval(store, ambient, &conversation.conversation_id, &id, note).await?;
    send_approval(tasks, &run, &decided).await?;
    if decided.status != wanted {
        let state = match decided.status {
            ApprovalStatus::Expired => "It ran out before it was decided.",
            ApprovalStatus::Approved => "It was approved already.",
            _ => "It was denied already.",
        };
        return Err(AppError::new(ErrorCode::Conflict, state));
    }
    Ok(approval_view(decided))
}
