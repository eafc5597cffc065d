//! Commands that go on although their run has ended: they are noted with the run's end, killed after it, and stay noted
//! until they are.

use futures::future::join_all;
use pvm_domain::conversation::{Run, ToolCall};
use pvm_domain::ids::ToolCallId;

use super::ensure_vm::change;
use crate::error::AppResult;
use crate::keys;
use crate::ports::{Ambient, RunCommands, VmError};
use crate::store::WriteStore;

/// Kills what `run` left running, all at once. What cannot be killed now stays noted and is left to the clean-up.
///
/// # Errors
/// Of the store.
pub(crate) async fn kill_left<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    run: Run,
) -> AppResult<Run> {
    let gone = kill_noted(store, vm, &run).await;
    forget_killed(store, ambient, run, &gone).await
}

/// Kills what is noted of `run`, all at once; answers what runs no more.
pub(crate) async fn kill_noted(store: &impl WriteStore, vm: &impl RunCommands, run: &Run) -> Vec<ToolCallId> {
    let killed = join_all(run.unkilled.iter().map(|id| kill_one(store, vm, run, id))).await;
    run.unkilled.iter().zip(killed).filter(|(_, killed)| *killed).map(|(id, _)| id.clone()).collect()
}

/// Takes `gone` off what is noted.
///
/// # Errors
/// Of the store.
pub(crate) async fn forget_killed<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    run: Run,
    gone: &[ToolCallId],
) -> AppResult<Run> {
    if gone.is_empty() {
        return Ok(run);
    }
    change(store, ambient, run, |run| run.unkilled.retain(|id| !gone.contains(id))).await
}

/// Answers whether the call runs no more.
async fn kill_one(store: &impl WriteStore, vm: &impl RunCommands, run: &Run, id: &ToolCallId) -> bool {
    let killed = match store.get::<ToolCall>(&keys::tool_call(&run.conversation_id, id)).await {
        Ok(Some(call)) => kill(vm, &call).await,
        Ok(None) => Ok(()),
        Err(error) => Err(VmError::Unavailable(error.into())),
    };
    if let Err(error) = &killed {
        tracing::warn!(tool_call.id = %id, %error, "a cancelled call could not be killed yet");
    }
    killed.is_ok()
}

/// Kills what a call runs in its VM: its run in the journal has the call's id. A VM that is gone runs nothing.
///
/// # Errors
/// Of the VM.
pub(crate) async fn kill(vm: &impl RunCommands, call: &ToolCall) -> Result<(), VmError> {
    let Some(vm_id) = &call.vm_id else { return Ok(()) };
    match vm.kill_run(vm_id, call.tool_call_id.as_str()).await {
        Ok(()) | Err(VmError::Gone | VmError::NotFound(_)) => Ok(()),
        Err(other) => Err(other),
    }
}
