//! `GET /api/projects/{project_id}/files/{file_id}/versions`

use pvm_api::files::versions;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("list-file-versions").await?;
    let store = start.read_store()?;
    start.http(|request| versions::handle(store, request)).await
}
