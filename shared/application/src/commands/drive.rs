//! Moving a command forward: from accepted, over claimed by a VM's epoch and started in its journal, to its end. Any
//! caller may do any part at any time; the journal sees to it that the command starts once.

use std::time::Duration;

use pvm_domain::command::{Command, CommandStatus};
use pvm_domain::vm::VmLease;
use pvm_domain::{install, limits};

use crate::commands::finish;
use crate::error::{AppResult, ErrorCode};
use crate::ports::{
    Ambient, Clock, ConnectVm, PutObject, ReadFrom, RequestSave, RunCommands, RunReport, RunSpec, RunState,
    StartExecution, VmError,
};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::recipe::{self, Place};
use crate::vm::{lease, ready};

/// What the journal has of a command from the beginning on, without waiting: as much as a start answers with.
const FROM_START: ReadFrom =
    ReadFrom { stdout: 0, stderr: 0, limit: limits::OUTPUT_INLINE_BYTES as u64, wait: Duration::ZERO };

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
                    Claimed::NotYet => return Ok(waiting(command)),
                }
            }
            None => {
                let lease = lease::load(store, ambient, &command.project_id).await?;
                return attach(store, objects, vm, saver, ambient, &lease, command, left()).await;
            }
        };
        // This caller made the claim: a VM that was away when it was asked has not run it.
        let Some(vm_id) = lease.vm_id.clone() else { return Ok(waiting(command)) };
        match vm.start_run(&vm_id, &spec(&command), left()).await {
            Ok(report) => return settle(store, objects, vm, saver, ambient, &vm_id, command, report).await,
            Err(error @ (VmError::Gone | VmError::Paused)) => {
                lease::note_away(store, ambient, &command.project_id, &vm_id, &error).await?;
                command = unclaimed(store, command).await?;
            }
            Err(error) => return unclear(store, vm, ambient, &vm_id, command, error).await,
        }
    }
    Ok(ended(command))
}

fn ended(command: Command) -> Live {
    Live { command, report: None }
}

/// Its end is not known before its VM is there again.
fn waiting(command: Command) -> Live {
    Live { command, report: None }
}

/// Takes a claim back that led to no start. Whoever started it meanwhile has said so in the record before, and then the
/// claim stays.
///
/// # Errors
/// Of the store.
pub(super) async fn unclaimed(store: &impl WriteStore, command: Command) -> AppResult<Command> {
    let (Ok(now) | Err(now)) = claimed_for(store, command, None).await?;
    Ok(now)
}

/// What a start came to that was answered by an error. Where the answer was lost or late the journal knows, and the next
/// look asks it; where the VM said no, and its journal does not know the command, it has ended.
///
/// # Errors
/// Of the store.
pub(super) async fn unclear<S: WriteStore, V: RunCommands, A: Ambient>(
    store: &S,
    vm: &V,
    ambient: &A,
    vm_id: &str,
    command: Command,
    error: VmError,
) -> AppResult<Live> {
    let why = match error {
        VmError::Refused(why) => why,
        VmError::NotFound(what) => format!("The VM has no {what}."),
        VmError::Unavailable(_) | VmError::Busy { .. } => {
            tracing::warn!(command.id = %command.command_id, %error, "the VM did not answer; the command is looked up again");
            return Ok(waiting(command));
        }
        other => return Err(other.into()),
    };
    match vm.read_run(vm_id, command.command_id.as_str(), FROM_START).await {
        Ok(None) => finish::refused(store, ambient, command, why).await.map(ended),
        Ok(Some(report)) => Ok(Live { command, report: Some(report) }),
        Err(error) => {
            tracing::warn!(command.id = %command.command_id, why, %error, "a start was refused, and the journal cannot be asked");
            Ok(waiting(command))
        }
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

/// Somebody claimed it before: the journal of the VM that is there now says how it stands, also where that VM has a new
/// epoch since (its processes were lost, its journal was not). One that no journal knows is started only in the epoch it
/// was claimed for, and only while that cannot be a second start.
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
    let lost = |command| finish::unstarted(store, ambient, command, CommandStatus::Lost);
    let same_epoch = command.epoch == Some(lease.epoch);
    let Some(ready) = ready::ready_of(lease) else {
        // Without any VM nothing can come back; one that is paused or being readied may have it.
        let nothing = !same_epoch && lease.vm_id.is_none() && lease.operation.is_none();
        return if nothing { lost(command).await.map(ended) } else { Ok(waiting(command)) };
    };
    let vm_id = ready.vm_id;
    let known = match vm.read_run(&vm_id, command.command_id.as_str(), FROM_START).await {
        Ok(known) => known,
        Err(error) => return away(store, ambient, &vm_id, command, error).await,
    };
    let goes_on_here = match &known {
        None if !same_epoch || is_stale(&command, ambient) => return lost(command).await.map(ended),
        None => true,
        Some(report) => report.state == RunState::Running && !same_epoch,
    };
    // Said before it is done, so that whoever claimed it does not think that nobody started it; and it goes on in the
    // epoch of the VM that has it.
    let command = if goes_on_here {
        match claimed_for(store, command, Some(lease.epoch)).await? {
            Ok(command) => command,
            Err(elsewhere) => return Ok(waiting(elsewhere)),
        }
    } else {
        command
    };
    match known {
        Some(report) if report.state != RunState::Running || wait.is_zero() => {
            settle(store, objects, vm, saver, ambient, &vm_id, command, report).await
        }
        _ => match vm.start_run(&vm_id, &spec(&command), wait).await {
            Ok(report) => settle(store, objects, vm, saver, ambient, &vm_id, command, report).await,
            Err(error @ (VmError::Gone | VmError::Paused)) => {
                away(store, ambient, &vm_id, command, error).await
            }
            Err(error) => unclear(store, vm, ambient, &vm_id, command, error).await,
        },
    }
}

/// The journal could not be asked. A command whose VM is gone is lost with it; one whose VM was paused goes on with it.
async fn away<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    vm_id: &str,
    command: Command,
    error: VmError,
) -> AppResult<Live> {
    match error {
        VmError::Gone => {
            lease::note_gone(store, ambient, &command.project_id, vm_id).await?;
            finish::unstarted(store, ambient, command, CommandStatus::Lost).await.map(ended)
        }
        VmError::Paused => {
            lease::note_away(store, ambient, &command.project_id, vm_id, &error).await?;
            Ok(waiting(command))
        }
        VmError::Unavailable(_) | VmError::Busy { .. } => {
            tracing::warn!(command.id = %command.command_id, %error, "the VM did not answer; the command is looked up again");
            Ok(waiting(command))
        }
        other => Err(other.into()),
    }
}

/// Whether a command that the journal does not know may have run so long ago that the journal has forgotten it.
fn is_stale(command: &Command, clock: &impl Clock) -> bool {
    let age = clock.now().duration_since(command.created_at).as_secs();
    age >= limits::COMMAND_START_SECS.cast_signed()
}

/// The record with a new version and this epoch; the record as it is now where somebody else changed it.
async fn claimed_for(
    store: &impl WriteStore,
    command: Command,
    epoch: Option<u64>,
) -> AppResult<Result<Command, Command>> {
    let mut claimed = Command { epoch, ..command };
    match store.commit(Tx::new().update(&mut claimed)).await {
        Ok(_) => Ok(Ok(claimed)),
        Err(StoreError::Conflict { .. }) => {
            super::get::load(store, &claimed.project_id, &claimed.command_id).await.map(Err)
        }
        Err(other) => Err(other.into()),
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
    remember_installs(store, &command).await;
    saver.request_save(&command.project_id).await;
    Ok(ended(command))
}

/// Notes what a command installed, so that the next VM has it too.
async fn remember_installs(store: &impl WriteStore, command: &Command) {
    let (spec, Some(epoch)) = (&command.spec, command.epoch) else { return };
    let well = command.status == CommandStatus::Exited && command.exit_code == Some(0);
    if !well || install::is_redirected(&spec.env) {
        return;
    }
    let place = Place { working_dir: Some(&spec.working_dir), user: &spec.user, epoch };
    recipe::record_line(store, &command.project_id, &spec.command, place).await;
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
