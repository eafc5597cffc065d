//! Clean-up by the clock.

use pvm_application::cleanup::{self, Counts};
use pvm_application::error::AppResult;
use pvm_application::files;
use pvm_application::ports::{
    Ambient, ConnectVm, DeleteObject, EndVm, FindVm, GetObject, PutObject, RunCommands, SendTask,
    StartExecution, UploadParts, VmFiles,
};
use pvm_application::store::WriteStore;

/// Files whose uploads are given up in one round, of each shard.
const UPLOADS: u32 = 100;

/// One bounded round of clean-up.
///
/// # Errors
/// Of the store; trouble with one VM is logged and left to the next round.
pub async fn handle<S, O, W, V, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    ambient: &A,
) -> AppResult<Counts>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject + UploadParts,
    W: StartExecution + SendTask,
    V: ConnectVm + EndVm + FindVm + VmFiles + RunCommands,
    A: Ambient,
{
    let counts = cleanup::sweep(store, objects, workflow, vm, ambient).await?;
    let uploads = match files::expire::sweep(store, objects, ambient, UPLOADS).await {
        Ok(uploads) => uploads,
        Err(error) => {
            tracing::warn!(?error, "uploads that never came could not be given up");
            0
        }
    };
    // A field each, so that logs can be added up and watched by what was done.
    tracing::info!(
        paused = counts.paused,
        ended = counts.ended,
        extended = counts.extended,
        operations = counts.operations,
        deletions = counts.deletions,
        runs = counts.runs,
        strays = counts.strays,
        errors = counts.errors,
        uploads,
        "clean-up"
    );
    Ok(counts)
}
