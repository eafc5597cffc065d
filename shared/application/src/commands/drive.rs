//! Moving a command forward: from accepted, over claimed by a VM's epoch and started in its journal, to its end. Any
//! caller may do any part at any time; the journal sees to it that the command starts once.

use std::time::Duration;

use pvm_domain::command::{Command, CommandStatus};
use pvm_domain::vm::VmLease;

use crate::commands::finish;
use crate::error::{AppResult, ErrorCode};
use crate::ports::{
    Ambient, ConnectVm, PutObject, RequestSave, RunCommands, RunReport, RunSpec, RunState, StartExecution,
    VmError,
};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::{lease, ready};

/// A command and, while it runs, what its VM says of it.
#[derive(Debug, Clone)]
pub struct Live {
    /// The record.
    pub command: Command,
    /// Output so far, from the beginning, where it has not ended and has been started.
    pub report: Option<RunReport>,
}

/// Drives `command` on, waiting up to `wait` for its end.
///
/// # Errors
/// `vm_not_ready` where no VM can be had; of the store and the VM. The command's record stays.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn drive<S, O, W, V, R, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    saver: &R,
    ambient: &A,
    command: Command,
    wait: Duration,
) -> AppResult<Live>
where
    S: WriteStore,
    O: PutObject,
    W: StartExecution,
    V: RunCommands + ConnectVm,
    R: RequestSave,
    A: Ambient,
{
    drive_from(store, objects, workflow, vm, saver, ambient, command, None, wait).await
}

/// [`drive`]; `claimed` is the lease whose epoch this very caller has just written into the command, so that no other
/// caller can have started it.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub(super) async fn drive_from<S, O, W, V, R, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    saver: &R,
    ambient: &A,
    mut command: Command,
    mut claimed: Option<VmLease>,
    wait: Duration,
) -> AppResult<Live>
where
    S: WriteStore,
    O: PutObject,
    W: StartExecution,
    V: RunCommands + ConnectVm,
    R: RequestSave,
    A: Ambient,
{
    let deadline = ambient.now() + wait;
    let left = || Duration::try_from(deadline.duration_since(ambient.now())).unwrap_or_default();
    while command.status == CommandStatus::Running {
        if command.kill_requested && command.epoch.is_none() {
            return finish::unstarted(store, ambient, command, CommandStatus::Killed).await.map(ended);
        }
        let lease = match claimed.take() {
            Some(lease) => lease,
            None if command.epoch.is_none() => {
                match claim(store, workflow, vm, ambient, &mut command, left()).await? {
                    Claimed::ByUs(lease) => {
                        claimed = Some(lease);
                        continue;
                    }
                    Claimed::Elsewhere(now) => {
                        command = now;
                        continue;
                    }
                    Claimed::NotYet => return Ok(Live { command, report: None }),
                }
            }
            None => {
                let lease = lease::load(store, ambient, &command.project_id).await?;
                if command.epoch != Some(lease.epoch) {
                    return finish::unstarted(store, ambient, command, CommandStatus::Lost).await.map(ended);
                }
                if ready::ready_of(&lease).is_none() {
                    // Paused or being readied with its processes kept: its end is not known before it is back.
                    return Ok(Live { command, report: None });
                }
                return attach(store, objects, vm, saver, ambient, &lease, command, left()).await;
            }
        };
        // This caller made the claim: nobody else has started it, so a VM that is gone at once has not run it.
        let Some(vm_id) = lease.vm_id.clone() else { return Ok(Live { command, report: None }) };
        match vm.start_run(&vm_id, &spec(&command), left()).await {
            Ok(report) => return settle(store, objects, vm, saver, ambient, &vm_id, command, report).await,
            Err(VmError::Gone) => {
                lease::note_gone(store, ambient, &command.project_id, &vm_id).await?;
                command.epoch = None;
                store.commit(Tx::new().update(&mut command)).await?;
            }
            Err(error) => return unclear(command, error),
        }
    }
    Ok(ended(command))
}

fn ended(command: Command) -> Live {
    Live { command, report: None }
}

/// The answer was lost or late: the journal knows, and the next look asks it.
fn unclear(command: Command, error: VmError) -> AppResult<Live> {
    match error {
        VmError::Unavailable(_) | VmError::Busy { .. } => {
            tracing::warn!(command.id = %command.command_id, %error, "the VM did not answer; the command is looked up again");
            Ok(Live { command, report: None })
        }
        other => Err(other.into()),
    }
}

enum Claimed {
    ByUs(VmLease),
    Elsewhere(Command),
    NotYet,
}

/// Readies the VM and writes its epoch into the command, before anything is started.
async fn claim<S: WriteStore, W: StartExecution, V: ConnectVm, A: Ambient>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    command: &mut Command,
    within: Duration,
) -> AppResult<Claimed> {
    let project_id = command.project_id.clone();
    match ready::ready(store, workflow, vm, ambient, &project_id, within).await {
        Ok(_) => {}
        Err(error) if error.code == ErrorCode::VmNotReady && error.retry_after.is_some() => {
            return Ok(Claimed::NotYet);
        }
        Err(error) => return Err(error),
    }
    let lease = lease::load(store, ambient, &project_id).await?;
    if ready::ready_of(&lease).is_none() {
        return Ok(Claimed::NotYet);
    }
    let mut next = command.clone();
    next.epoch = Some(lease.epoch);
    match store.commit(Tx::new().update(&mut next)).await {
        Ok(_) => {
            *command = next;
            Ok(Claimed::ByUs(lease))
        }
        Err(StoreError::Conflict { .. }) => {
            super::get::load(store, &project_id, &command.command_id).await.map(Claimed::Elsewhere)
        }
        Err(other) => Err(other.into()),
    }
}

/// Somebody claimed it before: attaches to it through the journal, or starts it where that never happened.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
async fn attach<S, O, V, R, A>(
    store: &S,
    objects: &O,
    vm: &V,
    saver: &R,
    ambient: &A,
    lease: &VmLease,
    command: Command,
    wait: Duration,
) -> AppResult<Live>
where
    S: WriteStore,
    O: PutObject,
    V: RunCommands,
    R: RequestSave,
    A: Ambient,
{
    let Some(vm_id) = lease.vm_id.clone() else { return Ok(Live { command, report: None }) };
    match vm.start_run(&vm_id, &spec(&command), wait).await {
        Ok(report) => settle(store, objects, vm, saver, ambient, &vm_id, command, report).await,
        Err(VmError::Gone) => {
            lease::note_gone(store, ambient, &command.project_id, &vm_id).await?;
            finish::unstarted(store, ambient, command, CommandStatus::Lost).await.map(ended)
        }
        Err(error) => unclear(command, error),
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
async fn settle<S, O, V, R, A>(
    store: &S,
    objects: &O,
    vm: &V,
    saver: &R,
    ambient: &A,
    vm_id: &str,
    command: Command,
    report: RunReport,
) -> AppResult<Live>
where
    S: WriteStore,
    O: PutObject,
    V: RunCommands,
    R: RequestSave,
    A: Ambient,
{
    if report.state == RunState::Running {
        if command.kill_requested {
            vm.kill_run(vm_id, command.command_id.as_str()).await?;
        }
        return Ok(Live { command, report: Some(report) });
    }
    let command = finish::with_report(store, objects, vm, ambient, vm_id, command, report).await?;
    saver.request_save(&command.project_id).await;
    Ok(ended(command))
}

pub(super) fn spec(command: &Command) -> RunSpec {
    let spec = &command.spec;
    RunSpec {
        run_id: command.command_id.to_string(),
        command: spec.command.clone(),
        working_dir: spec.working_dir.clone(),
        env: spec.env.clone(),
        stdin: spec.stdin.clone(),
        user: spec.user.clone(),
        timeout_secs: Some(spec.timeout_secs),
    }
}
