//! `run-turn`: `ToolFailed`, `ToolFailedParallel`

use pvm_application::runs;
use pvm_entry::{Outcome, Start, StepError, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("fail-tool").await?;
    let store = start.store()?;
    start.step(|input| async { runs::fail_tool(store, &System, input).await.map_err(StepError::from) }).await
}
