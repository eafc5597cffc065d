//! `run-turn`: `Think`

use pvm_application::runs;
use pvm_entry::{Outcome, Start, StepError, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("think").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    let models = start.models().await?;
    let tools = start.tools(store, workflow, vm);
    start
        .step(|input| async {
            runs::think(store, objects, models, tools, &System, input).await.map_err(StepError::from)
        })
        .await
}
