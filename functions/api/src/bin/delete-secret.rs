//! `DELETE /api/projects/{project_id}/secrets/{name}`

use pvm_api::secrets::delete;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("delete-secret").await?;
    let store = start.store()?;
    let secrets = start.secrets();
    let vm = start.vm().await?;
    start.http(|request| delete::handle(store, secrets, vm, &System, request)).await
}
