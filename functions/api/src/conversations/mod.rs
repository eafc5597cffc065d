//! Conversations of a project.

pub mod cancel;
pub mod create;
pub mod create_in_project;
pub mod decide;
pub mod fork;
pub mod get;
pub mod list;
pub mod send;

use pvm_contracts::conversations::MessageAccepted;
use pvm_domain::ids::ProjectId;
use pvm_entry::{Reply, reply};

/// 201: the conversation is there, and its first run on its way.
fn created(project_id: &ProjectId, accepted: &MessageAccepted) -> Reply {
    let id = &accepted.conversation_id;
    reply::created(accepted, &format!("/api/projects/{project_id}/conversations/{id}"))
}
