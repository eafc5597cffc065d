//! `PUT /api/agents/{agent_id}`

use pvm_api::agents::update;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("update-agent").await?;
    let store = start.store()?;
    let models = start.models().await?;
    start.http(|request| update::handle(store, models, &System, request)).await
}
