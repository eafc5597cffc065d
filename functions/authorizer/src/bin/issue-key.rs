//! Makes an API key for whoever may invoke this function.

use pvm_authorizer::issue_key;
use pvm_entry::{Outcome, Start, StepError, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("issue-key").await?;
    let store = start.store()?;
    start
        .step(|input| async { issue_key::handle(store, &System, input).await.map_err(StepError::from) })
        .await
}
