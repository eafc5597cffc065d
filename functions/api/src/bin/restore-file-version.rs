//! `POST /api/projects/{project_id}/files/{file_id}/versions/{number}/restore`

use pvm_api::files::restore;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("restore-file-version").await?;
    let store = start.store()?;
    let saver = start.saver()?;
    start.http(|request| restore::handle(store, saver, &System, request)).await
}
