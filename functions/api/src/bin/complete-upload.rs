//! `POST /api/projects/{project_id}/files/{file_id}/upload`

use pvm_api::files::complete;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("complete-upload").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    start.http(|request| complete::handle(store, objects, request)).await
}
