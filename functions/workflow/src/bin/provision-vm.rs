//! `vm-lifecycle`: `Provision`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::setup;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("provision-vm").await?;
    let store = start.store()?;
    let secrets = start.secrets();
    let vm = start.vm().await?;
    start
        .step(|input| async {
            setup::provision(store, secrets, vm, &System, input).await.map_err(StepError::from)
        })
        .await
}
