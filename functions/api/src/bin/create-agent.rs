//! `POST /api/agents`

use pvm_api::agents::create;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-agent").await?;
    let store = start.store()?;
    let models = start.models().await?;
    start.http(|request| create::handle(store, models, &System, request)).await
}
