//! Interactive terminals in a project's VM. A terminal belongs to its VM and lives as long as its shell; whoever watches
//! it keeps the VM awake.

use std::time::Duration;

use bytes::Bytes;
use pvm_domain::command::directory;
use pvm_domain::ids::{CommandId, PrefixedId, ProjectId};
use pvm_domain::key::Principal;
use pvm_domain::project::Scope;

use crate::authorize::authorize;
use crate::error::{AppError, AppResult};
use crate::ports::{
    Ambient, ConnectVm, NewTerminal, StartExecution, TerminalSize, TerminalStream, Terminals, VmError,
};
use crate::store::WriteStore;
use crate::vm::{lease, ready};

/// The VM may need this long to wake.
const VM_WITHIN: Duration = Duration::from_mins(1);
/// What the ids of terminals start with.
const PREFIX: &str = "term_";

/// A terminal as asked for.
#[derive(Debug, Clone)]
pub struct OpenTerminal {
    /// One that was opened before; `None` opens a new one.
    pub terminal_id: Option<String>,
    /// Its size.
    pub size: TerminalSize,
    /// `user` or `root`, for a new one.
    pub user: String,
    /// Where a new one starts.
    pub working_dir: String,
}

/// A terminal that is watched.
pub struct Opened {
    /// Its id, by which it is found again.
    pub terminal_id: String,
    /// Its VM.
    pub vm_id: String,
    /// What comes from it; first what it has kept.
    pub stream: TerminalStream,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("terminal_id", &self.terminal_id).finish_non_exhaustive()
    }
}

/// Opens a terminal, or attaches to one that was opened before. The VM is readied if it must be.
///
/// # Errors
/// `not_found` for a terminal that has ended (with its shell, or with its VM); `vm_not_ready`; `invalid`.
pub async fn open<S, W, V, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    principal: &Principal,
    project_id: &ProjectId,
    mut input: OpenTerminal,
) -> AppResult<Opened>
where
    S: WriteStore,
    W: StartExecution,
    V: ConnectVm + Terminals,
    A: Ambient,
{
    authorize(store, principal, project_id, Scope::Write).await?;
    input.working_dir = directory("working_dir", &input.working_dir)?;
    if input.user != "user" && input.user != "root" {
        return Err(AppError::invalid("user", "must be \"user\" or \"root\""));
    }
    if input.terminal_id.as_ref().is_some_and(|id| !is_id(id)) {
        return Err(AppError::not_found("terminal"));
    }
    let ready = ready::ready(store, workflow, vm, ambient, project_id, VM_WITHIN).await?;
    let vm_id = ready.vm_id;
    let opened = if let Some(id) = &input.terminal_id {
        match vm.attach_terminal(&vm_id, id).await {
            Ok(stream) => {
                vm.resize_terminal(&vm_id, id, input.size).await.or_else(ended)?;
                Ok((id.clone(), stream))
            }
            Err(VmError::NotFound(_)) => return Err(AppError::not_found("terminal")),
            Err(error) => Err(error),
        }
    } else {
        let terminal_id = new_id(ambient);
        let (size, user, working_dir) = (input.size, input.user, input.working_dir);
        let terminal = NewTerminal { terminal_id: terminal_id.clone(), user, working_dir, size };
        vm.open_terminal(&vm_id, &terminal).await.map(|stream| (terminal_id, stream))
    };
    match opened {
        Ok((terminal_id, stream)) => Ok(Opened { terminal_id, vm_id, stream }),
        Err(error @ (VmError::Gone | VmError::Paused)) => {
            lease::note_away(store, ambient, project_id, &vm_id, &error).await?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps the VM of a watched terminal awake. To be called every minute or so.
///
/// # Errors
/// Of the store.
pub async fn keep_awake<S: WriteStore, W: StartExecution, A: Ambient>(
    store: &S,
    workflow: &W,
    vm: &impl ConnectVm,
    ambient: &A,
    project_id: &ProjectId,
) -> AppResult<()> {
    let lease = lease::load(store, ambient, project_id).await?;
    if ready::ready_of(&lease).is_some() {
        ready::ready_from(store, workflow, vm, ambient, lease, Duration::ZERO).await?;
    }
    Ok(())
}

/// Types into a terminal; one that has ended takes nothing more.
///
/// # Errors
/// Of the VM.
pub async fn type_into(vm: &impl Terminals, opened: (&str, &str), bytes: Bytes) -> Result<(), VmError> {
    let (vm_id, terminal_id) = opened;
    vm.type_into(vm_id, terminal_id, bytes).await.or_else(ended)
}

/// Changes a terminal's size.
///
/// # Errors
/// Of the VM.
pub async fn resize(vm: &impl Terminals, opened: (&str, &str), size: TerminalSize) -> Result<(), VmError> {
    let (vm_id, terminal_id) = opened;
    vm.resize_terminal(vm_id, terminal_id, size).await.or_else(ended)
}

/// Ends a terminal with all its processes.
///
/// # Errors
/// Of the VM.
pub async fn end(vm: &impl Terminals, opened: (&str, &str)) -> Result<(), VmError> {
    vm.end_terminal(opened.0, opened.1).await
}

fn ended(error: VmError) -> Result<(), VmError> {
    if matches!(error, VmError::NotFound(_)) { Ok(()) } else { Err(error) }
}

fn new_id(ambient: &impl Ambient) -> String {
    // The time and randomness of any other id, under a prefix of its own.
    let made: CommandId = ambient.new_id();
    format!("{PREFIX}{}", made.as_str().trim_start_matches(CommandId::PREFIX).trim_start_matches('_'))
}

fn is_id(text: &str) -> bool {
    text.strip_prefix(PREFIX)
        .is_some_and(|body| format!("{}_{body}", CommandId::PREFIX).parse::<CommandId>().is_ok())
}
