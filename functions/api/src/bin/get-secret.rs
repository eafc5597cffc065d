//! `GET /api/projects/{project_id}/secrets/{name}`

use pvm_api::secrets::get;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-secret").await?;
    let store = start.read_store()?;
    start.http(|request| get::handle(store, request)).await
}
