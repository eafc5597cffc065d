//! `POST /api/projects/{project_id}/vm/command`

use pvm_api::commands::run;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("run-command").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    let saver = start.saver()?;
    start.http_streaming(|request| run::handle(store, objects, workflow, vm, saver, &System, request)).await
}
