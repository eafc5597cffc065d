//! `DELETE /api/projects/{project_id}/services/{service_id}/links`

use pvm_api::services::revoke;
use pvm_entry::{Outcome, Start, System};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("revoke-service-links").await?;
    let store = start.store()?;
    let vm = start.vm().await?;
    start.http(|request| revoke::handle(store, vm, &System, request)).await
}
