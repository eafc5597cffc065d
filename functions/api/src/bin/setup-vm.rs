//! `POST /api/projects/{project_id}/vm/setup`

use pvm_api::vm::setup;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("setup-vm").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    start.http(|request| setup::handle(store, workflow, &System, request)).await
}
