//! `vm-lifecycle`: `DeleteRecords`

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_workflow::lifecycle::erase;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("delete-records").await?;
    let store = start.store()?;
    start
        .step(|input| async { erase::delete_records(store, &System, input).await.map_err(StepError::from) })
        .await
}
