//! `DELETE /api/projects/{project_id}/files/{file_id}/upload`

use pvm_api::files::abort;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("abort-upload").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    start.http(|request| abort::handle(store, objects, request)).await
}
