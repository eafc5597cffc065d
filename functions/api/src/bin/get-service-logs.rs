//! `GET /api/projects/{project_id}/services/{service_id}/logs`

use pvm_api::services::logs;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("get-service-logs").await?;
    let store = start.store()?;
    let vm = start.vm().await?;
    start.http_streaming(|request| logs::handle(store, vm, &System, request)).await
}
