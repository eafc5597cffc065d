//! `DELETE /api/agents/{agent_id}`

use pvm_api::agents::delete;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("delete-agent").await?;
    let store = start.store()?;
    start.http(|request| delete::handle(store, &System, request)).await
}
