//! `POST /api/projects/{project_id}/vm/pause`

use pvm_api::vm::pause;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("pause-vm").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let vm = start.vm().await?;
    start.http(|request| pause::handle(store, objects, vm, &System, request)).await
}
