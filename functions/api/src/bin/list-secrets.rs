//! `GET /api/projects/{project_id}/secrets`

use pvm_api::secrets::list;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("list-secrets").await?;
    let store = start.read_store()?;
    start.http(|request| list::handle(store, request)).await
}
