//! Called by the queue of workspaces to save.

use pvm_entry::{Outcome, Start, System};
use pvm_events::save_files;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("save-files").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let vm = start.vm().await?;
    let saver = start.saver()?;
    start
        .step(|batch| async { Ok(save_files::handle(store, objects, vm, saver, &System, batch).await) })
        .await
}
