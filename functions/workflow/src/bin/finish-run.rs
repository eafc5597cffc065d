//! `run-turn`: `Finish`, `FailRun`

use pvm_application::runs;
use pvm_entry::{Outcome, Start, StepError, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("finish-run").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    start
        .step(|input| async {
            runs::finish_run(store, workflow, &System, input).await.map_err(StepError::from)
        })
        .await
}
