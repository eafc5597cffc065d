//! `PUT /api/projects/{project_id}`

use pvm_api::projects::update;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("update-project").await?;
    let store = start.store()?;
    start.http(|request| update::handle(store, &System, request)).await
}
