//! `POST /api/projects/{project_id}/conversations/{conversation_id}/cancel`

use pvm_api::conversations::cancel;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("cancel-conversation").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    start.http(|request| cancel::handle(store, workflow, vm, &System, request)).await
}
