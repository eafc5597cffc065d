//! `POST /api/projects/{project_id}/conversations/{conversation_id}/approvals/{approval_id}`

use pvm_api::conversations::decide;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("decide-approval").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    start.http(|request| decide::handle(store, workflow, &System, request)).await
}
