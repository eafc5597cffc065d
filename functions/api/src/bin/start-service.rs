//! `POST /api/projects/{project_id}/services`

use pvm_api::services::start;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("start-service").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    start.http(|request| start::handle(store, workflow, vm, &System, request)).await
}
