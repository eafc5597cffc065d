//! `POST /api/projects/{project_id}/files`

use pvm_api::files::upload;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("upload-file").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    start.http(|request| upload::handle(store, objects, &System, request)).await
}
