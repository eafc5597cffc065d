//! `GET /api/agents`

use pvm_api::agents::list;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("list-agents").await?;
    let store = start.read_store()?;
    let signer = start.signer(store).await?;
    start.http(|request| list::handle(store, signer, request)).await
}
