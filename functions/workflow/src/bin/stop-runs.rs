//! `vm-lifecycle`: `StopRuns`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::erase;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("stop-runs").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    start
        .step(|input| async {
            erase::stop_runs(store, workflow, vm, &System, input).await.map_err(StepError::from)
        })
        .await
}
