//! `GET /api/projects/{project_id}/vm/commands/{command_id}`

use pvm_api::commands::get;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-command").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    let saver = start.saver()?;
    start.http_streaming(|request| get::handle(store, objects, workflow, vm, saver, &System, request)).await
}
