//! `POST /api/projects/{project_id}/archives`

use pvm_api::archives::create;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-archive").await?;
    let store = start.store()?;
    let saver = start.saver()?;
    start.http(|request| create::handle(store, saver, &System, request)).await
}
