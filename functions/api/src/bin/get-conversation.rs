//! `GET /api/projects/{project_id}/conversations/{conversation_id}`

use pvm_api::conversations::get;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-conversation").await?;
    let store = start.read_store()?;
    start.http(|request| get::handle(store, request)).await
}
