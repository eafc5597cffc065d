//! Clean-up by the clock.

use pvm_application::cleanup::{self, Counts, Kept};
use pvm_application::error::AppResult;
use pvm_application::ports::{
    Ambient, ConnectVm, DeleteObject, EndVm, FindVm, GetObject, PutObject, RunCommands, SendTask,
    StartExecution, UploadParts, VmFiles,
};
use pvm_application::store::WriteStore;

/// One bounded round of clean-up, told by one line of the log.
///
/// # Errors
/// Of the store; trouble with one VM is logged and left to the next round.
pub async fn handle<S, O, W, V, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    ambient: &A,
    kept: &Kept,
) -> AppResult<Counts>
where
    S: WriteStore,
    O: PutObject + GetObject + DeleteObject + UploadParts,
    W: StartExecution + SendTask,
    V: ConnectVm + EndVm + FindVm + VmFiles + RunCommands,
    A: Ambient,
{
    let counts = cleanup::sweep(store, objects, workflow, vm, ambient, kept).await?;
    tell(&counts);
    Ok(counts)
}

/// A field each: the template's metric filters read them by these names.
fn tell(counts: &Counts) {
    tracing::info!(
        paused = counts.paused,
        ended = counts.ended,
        extended = counts.extended,
        operations = counts.operations,
        deletions = counts.deletions,
        runs = counts.runs,
        strays = counts.strays,
        uploads = counts.uploads,
        deleted_files = counts.deleted_files,
        commands = counts.commands,
        errors = counts.errors,
        "clean-up"
    );
}
