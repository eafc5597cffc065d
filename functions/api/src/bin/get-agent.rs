//! `GET /api/agents/{agent_id}`

use pvm_api::agents::get;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-agent").await?;
    let store = start.read_store()?;
    start.http(|request| get::handle(store, request)).await
}
