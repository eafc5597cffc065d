//! `GET /api/projects/{project_id}/conversations/{conversation_id}/events`

use pvm_api::events::conversation;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("read-conversation-events").await?;
    let store = start.store()?;
    start.http_streaming(|request| conversation::handle(store, &System, request)).await
}
