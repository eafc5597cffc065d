//! `POST /chat/agents/conversation`

use pvm_api::conversations::create_in_project;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("create-agent-conversation").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let workflow = start.workflow()?;
    let models = start.models().await?;
    start.http(|request| create_in_project::handle(store, objects, workflow, models, &System, request)).await
}
