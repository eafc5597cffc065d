//! `POST /api/projects`

use pvm_api::projects::create;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-project").await?;
    let store = start.store()?;
    let workflow = start.workflow()?;
    start.http(|request| create::handle(store, workflow, &System, request)).await
}
