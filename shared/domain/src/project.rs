//! Projects and who may enter them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{OwnerId, ProjectId};

/// A project: the thing that owns a VM, files, services and conversations, and outlives every VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Its id.
    pub project_id: ProjectId,
    /// Who made it.
    pub owner: OwnerId,
    /// Display name, 1 to 100 characters.
    pub name: String,
    /// Free text, at most 4,000 characters.
    pub description: String,
    /// Whether the VM was asked for at creation.
    pub auto_setup_vm: bool,
    /// The template of its VM; `None` is the server's default.
    pub template: Option<String>,
    /// Environment of everything that runs in its VM.
    pub env: BTreeMap<String, String>,
    /// Seconds without use after which its VM is paused; `None` is the default.
    #[serde(default)]
    pub vm_idle_secs: Option<u64>,
    /// Seconds that its paused VM is kept before it is saved and ended; `None` is the default.
    #[serde(default)]
    pub vm_paused_secs: Option<u64>,
    /// Whether it is being deleted: then it is not found by anyone but the deletion itself.
    pub deleting: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its own fields last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this record; the HTTP ETag.
    pub version: u64,
}

/// What a member may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes.
    Editor,
    /// Everything, deletion included.
    Owner,
}

/// A principal's place in a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The project.
    pub project_id: ProjectId,
    /// The principal.
    pub principal: OwnerId,
    /// What it may do.
    pub role: Role,
    /// When it was added.
    pub created_at: Timestamp,
    /// Counts the changes of this record.
    pub version: u64,
}

/// What a request wants to do; ordered, so that a wider scope includes the narrower ones.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look.
    Read,
    /// Change things inside a project.
    Write,
    /// Make and revoke keys, delete projects.
    Admin,
}

impl Role {
    /// Whether the role allows `scope`.
    pub fn allows(self, scope: Scope) -> bool {
        match self {
            Self::Viewer => scope == Scope::Read,
            Self::Editor => scope <= Scope::Write,
            Self::Owner => true,
        }
    }
}
