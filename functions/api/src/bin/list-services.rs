//! `GET /api/projects/{project_id}/services`

use pvm_api::services::list;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("list-services").await?;
    let store = start.store()?;
    let vm = start.vm().await?;
    start.http(|request| list::handle(store, vm, &System, request)).await
}
