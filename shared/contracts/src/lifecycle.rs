//! Inputs and outputs of the steps of `vm-lifecycle`.

use pvm_domain::ids::{ArchiveId, OperationId, ProjectId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What every step of `vm-lifecycle` is given. The execution's name is the operation's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LifecycleInput {
    /// The project.
    pub project_id: ProjectId,
    /// The operation; a step ends when the lease belongs to another one.
    pub operation_id: OperationId,
}

/// What a step of `vm-lifecycle` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LifecycleOutput {
    /// Whether the same step must be entered again, because a bounded batch did not do all.
    pub more: bool,
    /// Seconds to wait before that.
    pub delay_secs: u64,
}

impl LifecycleOutput {
    /// The step is complete.
    pub fn done() -> Self {
        Self { more: false, delay_secs: 0 }
    }

    /// There is more to do, at once.
    pub fn more(more: bool) -> Self {
        Self { more, delay_secs: 0 }
    }

    /// Something is still under way.
    pub fn again_in(delay_secs: u64) -> Self {
        Self { more: true, delay_secs }
    }
}

/// What `fail-vm` is given: the error that the state machine caught.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailVmInput {
    /// The project.
    pub project_id: ProjectId,
    /// The operation.
    pub operation_id: OperationId,
    /// Name of the error.
    #[serde(default)]
    pub error: String,
    /// Its cause: the JSON `{errorType, errorMessage}` of a step, or text.
    #[serde(default)]
    pub cause: String,
}

/// A request to save a project's workspace soon, as it waits in the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SaveRequest {
    /// The project whose workspace may have changed.
    pub project_id: ProjectId,
    /// An archive that is to be built besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_id: Option<ArchiveId>,
}
