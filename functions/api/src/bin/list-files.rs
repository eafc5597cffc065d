//! `GET /api/projects/{project_id}/files`

use pvm_api::files::list;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("list-files").await?;
    let store = start.read_store()?;
    let signer = start.signer(store).await?;
    start.http(|request| list::handle(store, signer, request)).await
}
