//! `PUT /api/projects/{project_id}/secrets/{name}`

use pvm_api::secrets::put;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("put-secret").await?;
    let store = start.store()?;
    let secrets = start.secrets();
    let vm = start.vm().await?;
    start.http(|request| put::handle(store, secrets, vm, &System, request)).await
}
