//! `GET /api/projects`

use pvm_api::projects::list;
use pvm_entry::{Outcome, Start};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("list-projects").await?;
    let store = start.read_store()?;
    let signer = start.signer(store).await?;
    start.http(|request| list::handle(store, signer, request)).await
}
