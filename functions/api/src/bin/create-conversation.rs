//! `POST /api/projects/{project_id}/conversations`

use pvm_api::conversations::create;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-conversation").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let workflow = start.workflow()?;
    let models = start.models().await?;
    start.http(|request| create::handle(store, objects, workflow, models, &System, request)).await
}
