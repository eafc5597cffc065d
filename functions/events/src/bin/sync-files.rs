//! Called by the queue of uploads that arrived.

use pvm_entry::{Outcome, Start, System};
use pvm_events::sync_files;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("sync-files").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let vm = start.vm().await?;
    start.step(|batch| async { Ok(sync_files::handle(store, objects, vm, &System, batch).await) }).await
}
