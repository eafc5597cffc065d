//! `run-turn`: `StartLanes`

use pvm_application::runs;
use pvm_entry::{Outcome, Start, StepError, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("start-lanes").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    start
        .step(|input| async {
            runs::start_lanes(store, workflow, vm, &System, input).await.map_err(StepError::from)
        })
        .await
}
