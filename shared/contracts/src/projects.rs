//! Projects on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pvm_domain::ids::{OwnerId, ProjectId};
use pvm_domain::limits;
use pvm_domain::project;
use pvm_domain::vm::VmStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Body of `POST /api/projects`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateProject {
    /// Display name, 1 to 100 characters, none of them a control character.
    #[schemars(length(min = 1, max = 100))]
    pub name: String,
    /// Free text, at most 4,000 characters.
    #[serde(default)]
    #[schemars(length(max = 4000))]
    pub description: String,
    /// Whether to start setting up the VM at once; otherwise its first use does.
    #[serde(default)]
    pub auto_setup_vm: bool,
    /// Template of the VM; absent means the server's default.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub template: Option<String>,
    /// Environment of everything that runs in the VM; at most 100 variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds without use after which the VM is paused, 60 to 82800; absent means 900.
    #[serde(default)]
    #[schemars(range(min = 60, max = 82_800))]
    pub vm_idle_secs: Option<u64>,
    /// Seconds that a paused VM is kept before it is saved and ended, 60 to 31536000; absent means 30 days.
    #[serde(default)]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub vm_paused_secs: Option<u64>,
}

/// Body of `PUT /api/projects/{project_id}`. A field that is absent keeps its value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateProject {
    /// New display name.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100))]
    pub name: Option<String>,
    /// New description.
    #[serde(default)]
    #[schemars(length(max = 4000))]
    pub description: Option<String>,
    /// New template, for the next VM: one that runs keeps its own until it is deleted.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub template: Option<String>,
    /// New environment, in place of the old one; processes that run already keep theirs.
    #[serde(default)]
    pub env: Option<BTreeMap<String, String>>,
    /// Seconds without use after which the VM is paused, 60 to 82800; absent keeps the value.
    #[serde(default)]
    #[schemars(range(min = 60, max = 82_800))]
    pub vm_idle_secs: Option<u64>,
    /// Seconds that a paused VM is kept before it is saved and ended, 60 to 31536000; absent keeps the value.
    #[serde(default)]
    #[schemars(range(min = 60, max = 31_536_000))]
    pub vm_paused_secs: Option<u64>,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Project {
    /// Its id.
    pub project_id: ProjectId,
    /// Who made it.
    pub owner: OwnerId,
    /// Display name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Whether the VM was asked for at creation.
    pub auto_setup_vm: bool,
    /// Template of the VM; `null` is the server's default.
    pub template: Option<String>,
    /// Environment of everything that runs in the VM.
    pub env: BTreeMap<String, String>,
    /// Seconds without use after which the VM is paused.
    pub vm_idle_secs: u64,
    /// Seconds that a paused VM is kept before it is saved and ended.
    pub vm_paused_secs: u64,
    /// The state of its VM.
    pub vm_status: VmStatus,
    /// When it was made.
    #[schemars(schema_with = "crate::time::time")]
    pub created_at: Timestamp,
    /// When these fields last changed.
    #[schemars(schema_with = "crate::time::time")]
    pub updated_at: Timestamp,
    /// Counts the changes; the `ETag`, and what `If-Match` of a PUT must name.
    pub version: u64,
}

impl Project {
    /// The project as users see it, with its VM's state.
    pub fn new(project: project::Project, vm_status: VmStatus) -> Self {
        Self {
            project_id: project.project_id,
            owner: project.owner,
            name: project.name,
            description: project.description,
            auto_setup_vm: project.auto_setup_vm,
            template: project.template,
            env: project.env,
            vm_idle_secs: project.vm_idle_secs.unwrap_or(limits::VM_IDLE_SECS),
            vm_paused_secs: project.vm_paused_secs.unwrap_or(limits::VM_PAUSED_SECS),
            vm_status,
            created_at: project.created_at,
            updated_at: project.updated_at,
            version: project.version,
        }
    }
}

/// Answer of `DELETE /api/projects/{project_id}`: the deletion goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProjectDeletion {
    /// The project.
    pub project_id: ProjectId,
    /// Always `deleting`.
    pub status: DeletionStatus,
}

/// How a deletion stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeletionStatus {
    /// Runs and services are ended, the VM is killed, files and records are removed; nobody finds the project any more.
    Deleting,
}
