//! `POST /api/projects/{project_id}/stream-ticket`

use pvm_api::events::ticket;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-stream-ticket").await?;
    let store = start.store()?;
    let signer = start.signer(store).await?;
    start.http(|request| ticket::handle(store, signer, &System, request)).await
}
