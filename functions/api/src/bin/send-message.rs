//! `POST /api/projects/{project_id}/conversations/{conversation_id}/messages`

use pvm_api::conversations::send;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("send-message").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    let models = start.models().await?;
    start.http(|request| send::handle(store, objects, workflow, vm, models, &System, request)).await
}
