//! `DELETE /api/projects/{project_id}/vm`

use pvm_api::vm::delete;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("delete-vm").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    start.http(|request| delete::handle(store, workflow, &System, request)).await
}
