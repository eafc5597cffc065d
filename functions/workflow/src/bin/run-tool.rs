//! `run-turn`: `RunTool`, `PollTool`, `RunToolParallel`, `PollToolParallel`

use pvm_entry::{Outcome, Start, System};
use pvm_workflow::run_turn;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("run-tool").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    let tools = start.tools(store, workflow, vm);
    let saver = start.saver()?;
    start.step(|input| run_turn::run_tool(store, workflow, vm, tools, saver, &System, input)).await
}
