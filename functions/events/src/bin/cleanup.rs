//! Called by the clock, every minute.

use pvm_entry::{Outcome, Start, StepError, System};
use pvm_events::cleanup;
use serde::de::IgnoredAny;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let start = Start::new("cleanup").await?;
    let store = start.store()?;
    let objects = start.objects()?;
    let workflow = start.workflow()?;
    let vm = start.vm().await?;
    let kept = start.settings.kept();
    let kept = &kept;
    start
        .step(|_: IgnoredAny| async {
            let counts = cleanup::handle(store, objects, workflow, vm, &System, kept).await;
            counts.map(|_| ()).map_err(StepError::from)
        })
        .await
}
