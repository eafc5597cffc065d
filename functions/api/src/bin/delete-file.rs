//! `DELETE /api/projects/{project_id}/files/{file_id}`

use pvm_api::files::delete;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("delete-file").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let vm = start.vm().await?;
    start.http(|request| delete::handle(store, objects, vm, &System, request)).await
}
