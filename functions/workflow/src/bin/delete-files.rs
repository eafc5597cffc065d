//! `vm-lifecycle`: `DeleteFiles`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::erase;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("delete-files").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let secrets = start.secrets();
    start
        .step(|input| async {
            erase::delete_files(store, objects, secrets, &System, input).await.map_err(StepError::from)
        })
        .await
}
