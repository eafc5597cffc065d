//! Executions that ended without success: their run or VM operation must not stay open.

use pvm_application::error::AppResult;
use pvm_application::ports::{Ambient, SendTask, StartExecution};
use pvm_application::runs;
use pvm_application::store::WriteStore;
use pvm_application::vm::provision;
use pvm_contracts::lifecycle::LifecycleInput;
use pvm_contracts::steps::RunInput;
use serde::{Deserialize, Serialize};

/// What EventBridge says of an execution (`detail` of a "Step Functions Execution Status Change").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// ARN of its machine; ends with the machine's name.
    pub state_machine_arn: String,
    /// Its name.
    pub name: String,
    /// `FAILED`, `ABORTED` or `TIMED_OUT`.
    pub status: String,
    /// Its input, JSON as text.
    #[serde(default)]
    pub input: Option<String>,
    /// Its cause.
    #[serde(default)]
    pub cause: Option<String>,
}

/// Closes what the execution left open. An input of another shape is nobody's and passed over.
///
/// # Errors
/// Of the store or the workflow engine.
pub async fn handle<S: WriteStore, W: StartExecution + SendTask, A: Ambient>(
    store: &S,
    workflow: &W,
    ambient: &A,
    ended: &Ended,
) -> AppResult<()> {
    let input = ended.input.as_deref().unwrap_or_default();
    if let Ok(run) = serde_json::from_str::<RunInput>(input) {
        return runs::execution_ended(store, workflow, ambient, &run, &ended.status).await;
    }
    if let Ok(vm) = serde_json::from_str::<LifecycleInput>(input) {
        let reason = match &ended.cause {
            Some(cause) => format!("The operation ended as {}: {cause}", ended.status),
            None => format!("The operation ended as {}.", ended.status),
        };
        return provision::fail(store, ambient, &vm.project_id, &vm.operation_id, &reason, false).await;
    }
    tracing::warn!(execution = ended.name, "an execution ended whose input is not ours");
    Ok(())
}
