//! `POST /api/projects/{project_id}/services/{service_id}/links`

use pvm_api::services::link;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-service-link").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    start.http(|request| link::handle(store, workflow, vm, &System, request)).await
}
