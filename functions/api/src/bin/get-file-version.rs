//! `GET /api/projects/{project_id}/files/{file_id}/versions/{number}`

use pvm_api::files::version;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-file-version").await?;
    let store = start.read_store()?;
    let objects = start.objects()?;
    start.http(|request| version::handle(store, objects, &System, request)).await
}
