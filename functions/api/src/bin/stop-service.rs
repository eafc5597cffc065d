//! `DELETE /api/projects/{project_id}/services/{service_id}`

use pvm_api::services::stop;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("stop-service").await?;
    let store = start.store()?;
    let vm = start.vm().await?;
    start.http(|request| stop::handle(store, vm, &System, request)).await
}
