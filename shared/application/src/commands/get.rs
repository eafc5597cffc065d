//! Looking at a command, which also drives it on.

use std::time::Duration;

use pvm_domain::command::{Command, CommandStatus};
use pvm_domain::ids::{CommandId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::commands::drive::{Live, drive};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::keys;
use crate::ports::{
    Ambient, ConnectVm, PutObject, ReadFrom, RequestSave, RunCommands, RunState, StartExecution, VmError,
};
use crate::store::{ReadStore, WriteStore};
use crate::vm::{lease, ready};

/// The record of a command.
///
/// # Errors
/// `not_found`; of the store.
pub async fn load(
    store: &impl ReadStore,
    project_id: &ProjectId,
    command_id: &CommandId,
) -> AppResult<Command> {
    store.get(&keys::command(project_id, command_id)).await?.ok_or_else(|| AppError::not_found("command"))
}

/// A command with its output from `from` on, where it runs; waits as `from` says for something new.
///
/// # Errors
/// `not_found`; of the store or the VM.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn get<S, O, W, V, R, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    saver: &R,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    command_id: &CommandId,
    from: ReadFrom,
) -> AppResult<Live>
where
    S: WriteStore,
    O: PutObject,
    W: StartExecution,
    V: RunCommands + ConnectVm,
    R: RequestSave,
    A: Ambient,
{
    authorize(store, principal, project_id, Scope::Read).await?;
    let command = load(store, project_id, command_id).await?;
    if command.status != CommandStatus::Running {
        return Ok(Live { command, report: None });
    }
    let lease = lease::load(store, ambient, project_id).await?;
    let ours = ready::ready_of(&lease).filter(|ready| command.epoch == Some(ready.epoch));
    if let Some(ready) = ours {
        match vm.read_run(&ready.vm_id, command_id.as_str(), from).await {
            Ok(Some(report)) if report.state == RunState::Running => {
                return Ok(Live { command, report: Some(report) });
            }
            // Ended, never started, or out of reach: driving it on finds out which and notes it.
            Ok(_) | Err(VmError::Gone | VmError::Paused | VmError::Unavailable(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let known = command.clone();
    match drive(store, objects, workflow, vm, saver, ambient, command, from.wait.min(Duration::from_secs(20)))
        .await
    {
        // The command still waits for a VM that could not be set up yet: that is its state, not an error of looking.
        Err(error) if matches!(error.code, ErrorCode::VmNotReady | ErrorCode::LimitReached) => {
            Ok(Live { command: known, report: None })
        }
        Ok(live) => {
            let_go(store, ambient, &live.command).await?;
            Ok(live)
        }
        Err(error) => Err(error),
    }
}

/// Gives the VM back that an ended command held.
///
/// # Errors
/// Of the store.
pub(super) async fn let_go<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    command: &Command,
) -> AppResult<()> {
    if command.status == CommandStatus::Running {
        return Ok(());
    }
    lease::release(store, ambient, &command.project_id, command.command_id.as_str()).await
}
