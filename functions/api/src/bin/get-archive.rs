//! `GET /api/projects/{project_id}/archives/{archive_id}`

use pvm_api::archives::get;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-archive").await?;
    let store = start.read_store()?;
    let objects = start.objects()?;
    start.http(|request| get::handle(store, objects, &System, request)).await
}
