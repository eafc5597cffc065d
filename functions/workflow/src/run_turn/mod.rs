//! The steps of `run-turn`. Nearly all are the use case as it is; only a tool call that goes on after the first look is
//! told to the state machine in its own way.

use pvm_application::ports::{Ambient, ConnectVm, RequestSave, RunCommands, StartExecution};
use pvm_application::ports_tools::Tools;
use pvm_application::runs;
use pvm_application::store::WriteStore;
use pvm_contracts::steps::{RunToolInput, RunToolOutput, ToolState};
use pvm_entry::{StepError, StepErrorName};

/// RunTool and PollTool. The first look at a call that goes on is an error by name, so that a call that ends at once costs
/// no further state (see statemachines/README.md).
///
/// # Errors
/// `ToolRunning`; those of the use case.
pub async fn run_tool<S, W, V, T, R, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    tools: &T,
    saver: &R,
    ambient: &A,
    input: RunToolInput,
) -> Result<RunToolOutput, StepError>
where
    S: WriteStore,
    W: StartExecution,
    V: ConnectVm + RunCommands,
    T: Tools,
    R: RequestSave,
    A: Ambient,
{
    let first = input.polls == 0;
    let output = runs::run_tool(store, workflow, vm, tools, saver, ambient, input).await?;
    if first && output.status == ToolState::Running {
        return Err(StepError::new(StepErrorName::ToolRunning, "The tool call goes on."));
    }
    Ok(output)
}
