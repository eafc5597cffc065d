//! Ending sandboxes for good.

use std::sync::{Arc, PoisonError};

use super::create::blocking;
use super::{Engine, EngineError, Sandbox};
use crate::store::Phase;

impl Engine {
    /// Ends a sandbox and removes all of it.
    pub(crate) async fn kill(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), EngineError> {
        let _turn = sandbox.transition.lock().await;
        if sandbox.with(|record| record.phase == Phase::Killing) {
            return Err(EngineError::NotFound(sandbox.id().to_owned()));
        }
        // Stored first: a server that dies from here on finishes the removal when it is back.
        sandbox
            .update(|record| record.phase = Phase::Killing)
            .map_err(EngineError::at("recording the kill"))?;
        let removed = self.remove_all(sandbox).await;
        self.registry.remove(sandbox.id());
        if !sandbox.with(|record| record.origin.layers.is_empty()) {
            // It may have been the last one above a layer of a snapshot that is gone.
            self.remove_unused_layers();
        }
        removed.map_err(EngineError::at("removing the sandbox"))?;
        tracing::info!(sandbox.id = sandbox.id(), "sandbox killed");
        Ok(())
    }

    /// Removes processes, groups, folder and id range of a sandbox, in this order.
    pub(super) async fn remove_all(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> std::io::Result<()> {
        if let Some(runtime) = sandbox.any_runtime() {
            runtime.streams.cancel();
            runtime.process.kill()?;
            // A frozen process takes the signal when it goes on.
            if let Some(group) = sandbox.with(|record| record.group.clone()) {
                group.thaw().ok();
            }
            runtime.process.ended().await;
            runtime.process.gone.cancel();
            sandbox.set_runtime(None);
        }
        self.remove_remains(sandbox).await
    }

    /// Removes groups and folder of a sandbox that has no known process.
    pub(super) async fn remove_remains(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> std::io::Result<()> {
        let range = sandbox.with(|record| record.range);
        let group = sandbox.with(|record| record.group.clone());
        let (engine, folder) = (Arc::clone(self), sandbox.folder.clone());
        let discarded = blocking(move || {
            if let Some(group) = group {
                group.remove()?;
            }
            engine.layout.discard(folder.path())
        })
        .await?;
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).release(range);
        if let Some(trash) = discarded {
            // Out of sight already; how long removing takes depends on how much was written.
            self.tasks.spawn_blocking(move || {
                if let Err(error) = crate::store::remove_tree(&trash) {
                    tracing::warn!(path = %trash.display(), %error, "removed at the next start");
                }
            });
        }
        Ok(())
    }
}
