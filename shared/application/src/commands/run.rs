//! Accepting a command: recorded first, then driven as far as the caller wants to wait.

use std::time::Duration;

use pvm_domain::command::{Command, CommandSpec, CommandStatus, KeptOutput};
use pvm_domain::ids::{CommandId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;
use pvm_domain::vm::VmLease;

use crate::authorize::authorize;
use crate::commands::drive::{Live, drive_from};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::idempotency::{Claim, replayed};
use crate::keys;
use crate::ports::{Ambient, ConnectVm, PutObject, RequestSave, RunCommands, StartExecution};
use crate::store::{Condition, StoreError, Tx, WriteStore};
use crate::vm::lease;
use crate::vm::ready::TOUCH_SECS;

/// What to run and how long to wait for its end.
#[derive(Debug, Clone)]
pub struct RunCommand {
    /// The command, checked.
    pub spec: CommandSpec,
    /// How long to wait; zero for a command in the background.
    pub wait: Duration,
}

/// Runs a command in the project's VM, which is readied if it must be.
///
/// # Errors
/// `vm_not_ready` where the VM cannot be set up (the command is then forgotten and may be sent again); those of
/// authorization and idempotency.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub async fn run<S, O, W, V, R, A>(
    store: &S,
    objects: &O,
    workflow: &W,
    vm: &V,
    saver: &R,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    claim: Option<&Claim>,
    input: RunCommand,
) -> AppResult<Live>
where
    S: WriteStore,
    O: PutObject,
    W: StartExecution,
    V: RunCommands + ConnectVm,
    R: RequestSave,
    A: Ambient,
{
    // The caller is the owner nearly always: its limits are read together with the rest.
    let (project, lease, limits) = tokio::join!(
        authorize(store, principal, project_id, Scope::Write),
        lease::load(store, ambient, project_id),
        fair_use::limits_of(store, &principal.owner),
    );
    let (owner, limits) = (project?.owner, limits?);
    let limits = if owner == limits.owner { limits } else { fair_use::limits_of(store, &owner).await? };
    if let Some(known) = replayed(store, claim, ambient.now()).await? {
        let id: CommandId = known.parse().map_err(|_| AppError::not_found("command"))?;
        let known = super::get::load(store, project_id, &id).await?;
        return drive_from(store, objects, workflow, vm, saver, ambient, known, None, input.wait).await;
    }
    let mut lease = lease?;
    let mut command = accepted(ambient, project_id, input.spec, &lease);
    let claimed = command.epoch.is_some();
    let mut tx = fair_use::one_command(Tx::new().create(&mut command), &owner, ambient.now()).within(&limits);
    if let Some(claim) = claim {
        let mut memory = claim.record(&command.command_id, ambient.now());
        tx = tx.require(keys::project(project_id), Condition::Present).create(&mut memory);
    }
    match store.commit(tx).await {
        Ok(_) => {}
        // The same request twice at the same moment: the other one made the command.
        Err(StoreError::Conflict { key }) if claim.is_some_and(|claim| claim.key() == key) => {
            let known = replayed(store, claim, ambient.now()).await?;
            let id = known.and_then(|id| id.parse().ok()).ok_or_else(|| AppError::not_found("command"))?;
            let known = super::get::load(store, project_id, &id).await?;
            return drive_from(store, objects, workflow, vm, saver, ambient, known, None, input.wait).await;
        }
        Err(other) => return Err(other.into()),
    }
    if claimed {
        lease = touched(store, vm, workflow, ambient, lease).await;
    }
    // Before anything is waited for: a caller that goes away meanwhile must not leave a command that nobody starts, or
    // under which the VM is paused.
    let held = !claimed || outlives_idle(&command.spec, &lease);
    if held {
        lease::hold(store, ambient, project_id, command.command_id.as_str()).await?;
    }
    let id = command.command_id.clone();
    let fresh = claimed.then_some(lease);
    let driven = drive_from(store, objects, workflow, vm, saver, ambient, command, fresh, input.wait).await;
    match driven {
        Err(error) if matches!(error.code, ErrorCode::VmNotReady | ErrorCode::LimitReached) => {
            forget(store, ambient, project_id, &id, claim).await?;
            Err(error)
        }
        Ok(live) if live.command.status == CommandStatus::Running => {
            if !held {
                // It goes on without its caller: the VM must not be paused under it.
                lease::hold(store, ambient, project_id, id.as_str()).await?;
            }
            Ok(live)
        }
        Ok(live) if held => {
            super::get::let_go(store, ambient, &live.command).await?;
            Ok(live)
        }
        other => other,
    }
}

/// A command as it is accepted. An active VM is claimed in the same write: one round trip less on the common way.
fn accepted(ambient: &impl Ambient, project_id: &ProjectId, spec: CommandSpec, lease: &VmLease) -> Command {
    Command {
        project_id: project_id.clone(),
        command_id: ambient.new_id(),
        spec,
        status: CommandStatus::Running,
        epoch: crate::vm::ready::ready_of(lease).map(|ready| ready.epoch),
        kill_requested: false,
        exit_code: None,
        signal: None,
        stdout: KeptOutput::default(),
        stderr: KeptOutput::default(),
        duration_ms: None,
        created_at: ambient.now(),
        finished_at: None,
        version: 0,
    }
}

/// Whether a command may still run when the VM's idle clock, set at its start, has run out.
fn outlives_idle(spec: &CommandSpec, lease: &VmLease) -> bool {
    spec.timeout_secs.saturating_add(TOUCH_SECS.unsigned_abs()) >= lease.idle_secs()
}

/// Forgets a command that no VM could be had for, so that it may be sent again. One that somebody else has started
/// meanwhile stays.
async fn forget<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    project_id: &ProjectId,
    command_id: &CommandId,
    claim: Option<&Claim>,
) -> AppResult<()> {
    let command = super::get::load(store, project_id, command_id).await?;
    if command.epoch.is_some() {
        return Ok(());
    }
    let mut tx = Tx::new().delete(&command);
    if let Some(claim) = claim {
        tx = tx.remove(claim.key());
    }
    match store.commit(tx).await {
        Ok(_) => lease::release(store, ambient, project_id, command_id.as_str()).await,
        Err(StoreError::Conflict { .. }) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// Keeps the idle clocks of a VM in use going.
async fn touched<S: WriteStore, A: Ambient>(
    store: &S,
    vm: &impl ConnectVm,
    workflow: &impl StartExecution,
    ambient: &A,
    lease: VmLease,
) -> VmLease {
    // An active lease is answered without waiting, and its trouble shows when the command starts.
    drop(crate::vm::ready::ready_from(store, workflow, vm, ambient, lease.clone(), Duration::ZERO).await);
    lease
}
