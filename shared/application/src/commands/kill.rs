//! Killing a command with all its processes.

use std::time::Duration;

use pvm_domain::command::{Command, CommandStatus};
use pvm_domain::ids::{CommandId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::commands::drive::drive;
use crate::commands::finish;
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{Ambient, ConnectVm, PutObject, RequestSave, RunCommands, StartExecution};
use crate::store::{StoreError, Tx, WriteStore};

/// How long to wait for the end of what was killed.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Kills a command's whole process group, or keeps it from starting. One that has ended stays as it ended.
///
/// # Errors
/// `not_found`; of the store or the VM.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn kill<S, O, W, V, R, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    saver: &R,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    command_id: &CommandId,
) -> AppResult<Command>
where
    S: WriteStore,
    O: PutObject,
    W: StartExecution,
    V: RunCommands + ConnectVm,
    R: RequestSave,
    A: Ambient,
{
    authorize(store, principal, project_id, Scope::Write).await?;
    for _ in 0..8 {
        let mut command = super::get::load(store, project_id, command_id).await?;
        if command.status != CommandStatus::Running {
            return Ok(command);
        }
        if !command.kill_requested {
            command.kill_requested = true;
            match store.commit(Tx::new().update(&mut command)).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => continue,
                Err(other) => return Err(other.into()),
            }
        }
        if command.epoch.is_none() {
            let command = finish::unstarted(store, ambient, command, CommandStatus::Killed).await?;
            super::get::let_go(store, ambient, &command).await?;
            return Ok(command);
        }
        // The first look sends the kill, the second one waits for the end.
        let live = drive(store, objects, workflow, vm, saver, ambient, command, Duration::ZERO).await?;
        let live = match live.command.status {
            CommandStatus::Running => {
                drive(store, objects, workflow, vm, saver, ambient, live.command, END_WITHIN).await?
            }
            _ => live,
        };
        super::get::let_go(store, ambient, &live.command).await?;
        return Ok(live.command);
    }
    Err(AppError::new(ErrorCode::Conflict, "The command keeps changing; try again."))
}
