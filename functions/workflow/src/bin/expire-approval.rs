//! `run-turn`: `ApprovalExpired`

use pvm_application::runs;
use pvm_entry::{Outcome, Start, StepError, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("expire-approval").await?;
    let store = start.store()?;
    start
        .step(|input| async { runs::expire_approval(store, &System, input).await.map_err(StepError::from) })
        .await
}
