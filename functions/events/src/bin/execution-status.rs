//! Called by the rule about executions that failed, were aborted or timed out.

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_events::execution_status::{self, Ended};
use serde::Deserialize;

/// The event around what is told.
#[derive(Deserialize)]
struct Event {
    detail: Ended,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("execution-status").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    start
        .step(|event: Event| async move {
            execution_status::handle(store, workflow, &System, &event.detail).await.map_err(StepError::from)
        })
        .await
}
