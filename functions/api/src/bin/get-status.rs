//! `GET /api/projects/{project_id}/status`

use pvm_api::vm::status;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-status").await?;
    let store = start.store()?;
    let vm = start.vm().await?;
    start.http(|request| status::handle(store, vm, &System, request)).await
}
