//! `vm-lifecycle`: `SetupFailed`, `TeardownFailed`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::setup;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("fail-vm").await?;
    let store = start.store()?;
    start.step(|input| async { setup::fail_vm(store, &System, input).await.map_err(StepError::from) }).await
}
