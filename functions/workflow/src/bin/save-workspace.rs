//! `vm-lifecycle`: `Save`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::end;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("save-workspace").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let vm = start.vm().await?;
    start
        .step(|input| async {
            end::save_workspace(store, objects, vm, &System, input).await.map_err(StepError::from)
        })
        .await
}
