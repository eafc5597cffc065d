//! A project's VM on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pvm_domain::ids::{OperationId, ProjectId};
use pvm_domain::vm::{VmLease, VmStatus};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::services::Service;

/// A project's VM, as set-up, pause and teardown answer it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vm {
    /// The project.
    pub project_id: ProjectId,
    /// Its state.
    pub vm_status: VmStatus,
    /// The provider's id, if there is a VM.
    pub vm_id: Option<String>,
    /// Counts the VMs (and boots) of this project.
    pub epoch: u64,
    /// The lifecycle operation under way, if any.
    pub operation_id: Option<OperationId>,
    /// The template it was made from.
    pub template: Option<String>,
    /// When it was made or resumed.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub started_at: Option<Timestamp>,
    /// When anything last used it.
    #[schemars(schema_with = "crate::time::time")]
    pub last_activity: Timestamp,
    /// Why the last set-up failed, or what became of the VM.
    pub reason: Option<String>,
}

impl From<VmLease> for Vm {
    fn from(lease: VmLease) -> Self {
        Self {
            project_id: lease.project_id,
            vm_status: lease.state,
            vm_id: lease.vm_id,
            epoch: lease.epoch,
            operation_id: lease.operation,
            template: lease.template,
            started_at: lease.started_at,
            last_activity: lease.last_activity,
            reason: lease.reason,
        }
    }
}

/// How the project's files stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileCounts {
    /// All of them.
    pub total: u64,
    /// Those that the VM has (or will have at its next set-up without a change).
    pub synced: u64,
    /// Those on their way.
    pub pending: u64,
    /// Those whose last sync failed.
    pub failed: u64,
    /// Files and links that only the VM has, because they cannot be stored (a name that is no UTF-8, a path of more than
    /// 1,000 bytes, not readable): they go with the VM. `file.unstored` events name them.
    pub unstored: u64,
}

/// A recorded install that could not be repeated on the present VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedInstall {
    /// Its shell line, shortened where it is long.
    pub command: String,
    /// How it ended; `null` where it was killed at its time limit.
    pub exit_code: Option<i32>,
    /// The end of its output.
    pub output: String,
}

/// What a VM has and uses right now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Use of all of them since the look before, in percent.
    pub cpu_percent: f64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Memory in use, in bytes.
    pub memory_used_bytes: u64,
    /// Disk, in bytes.
    pub disk_bytes: u64,
    /// Disk in use, in bytes.
    pub disk_used_bytes: u64,
}

/// What a project has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// Seconds that its VMs were active.
    pub vm_active_secs: u64,
    /// Calls of models by ended runs.
    pub model_calls: u32,
    /// Tokens that ended runs sent to models.
    pub input_tokens: u64,
    /// Tokens that models answered.
    pub output_tokens: u64,
    /// Price of the models' calls in US dollars; models without a known price count 0.
    pub model_usd: f64,
}

/// Answer of `GET /api/projects/{project_id}/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The project.
    pub project_id: ProjectId,
    /// Its name.
    pub name: String,
    /// The state of its VM.
    pub vm_status: VmStatus,
    /// The provider's id of the VM, if there is one.
    pub vm_id: Option<String>,
    /// Counts the VMs (and boots) of this project.
    pub epoch: u64,
    /// The template of the VM.
    pub template: Option<String>,
    /// Why the last set-up failed, or what became of the VM.
    pub reason: Option<String>,
    /// When the VM was made or resumed.
    #[schemars(schema_with = "crate::time::time_or_null")]
    pub started_at: Option<Timestamp>,
    /// When anything last used the VM.
    #[schemars(schema_with = "crate::time::time")]
    pub last_activity: Timestamp,
    /// Its services.
    pub services: Vec<Service>,
    /// Its files.
    pub files: FileCounts,
    /// Whether the VM did not answer: services are then told from the records alone.
    pub stale: bool,
    /// What the VM has and uses; `null` while none is active or it did not answer.
    pub resources: Option<Resources>,
    /// Seconds since the VM was made or resumed; `null` while none runs.
    pub uptime_secs: Option<u64>,
    /// What the project has cost so far.
    pub cost: Cost,
    /// What the VM can do (`docker`, `systemd`, `sudo` ...); empty while no VM was ever ready.
    pub capabilities: BTreeMap<String, bool>,
    /// What separates the VM from its host, such as `namespaces` or `microvm`; `null` while unknown.
    pub isolation: Option<String>,
    /// Recorded installs that the VM lacks, because they could not be repeated when it was made; 20 at most.
    pub failed_installs: Vec<FailedInstall>,
}
