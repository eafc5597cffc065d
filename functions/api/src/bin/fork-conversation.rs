//! `POST /api/projects/{project_id}/conversations/{conversation_id}/fork`

use pvm_api::conversations::fork;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("fork-conversation").await?;
    let store = start.store()?;
    start.http(|request| fork::handle(store, &System, request)).await
}
