//! Reading event logs: page by page, or followed as they grow.

mod follow;
mod page;

pub use follow::{Follower, Frame};
pub use page::{LogPage, page};

use pvm_domain::conversation::Conversation;
use pvm_domain::event::LogId;
use pvm_domain::project::Project;

use crate::error::AppResult;
use crate::keys;
use crate::store::ReadStore;

/// Whether nothing more will be appended to `log` before somebody asks for something new: no run of the conversation is
/// active or queued. A project's own log ends with the project.
async fn is_idle(store: &impl ReadStore, log: &LogId) -> AppResult<bool> {
    Ok(match log {
        LogId::Conversation(id) => {
            let conversation: Option<Conversation> = store.get(&keys::conversation(id)).await?;
            conversation.is_none_or(|found| found.active_run.is_none() && found.queued.is_empty())
        }
        LogId::Project(id) => {
            let project: Option<Project> = store.get(&keys::project(id)).await?;
            project.is_none_or(|found| found.deleting)
        }
    })
}

/// Whether everything up to `delivered` is all there is and will be for now. The state is read before the log's head:
/// a run that begins in between raises the head.
async fn has_ended(store: &impl ReadStore, log: &LogId, delivered: u64) -> AppResult<bool> {
    Ok(is_idle(store, log).await? && store.log_head(log).await? <= delivered)
}
