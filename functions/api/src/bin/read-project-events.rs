//! `GET /api/projects/{project_id}/events`

use pvm_api::events::project;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("read-project-events").await?;
    let store = start.store()?;
    start.http_streaming(|request| project::handle(store, &System, request)).await
}
