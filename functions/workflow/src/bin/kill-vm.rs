//! `vm-lifecycle`: `Kill`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::end;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("kill-vm").await?;
    let store = start.store()?;
    let vm = start.vm().await?;
    start.step(|input| async { end::kill_vm(store, vm, &System, input).await.map_err(StepError::from) }).await
}
