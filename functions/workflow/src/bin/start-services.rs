//! `vm-lifecycle`: `StartServices`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::setup;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("start-services").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let vm = start.vm().await?;
    start
        .step(|input| async {
            setup::start_services(store, objects, vm, &System, input).await.map_err(StepError::from)
        })
        .await
}
