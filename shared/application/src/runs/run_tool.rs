//! RunTool and PollTool: one tool call, started at most once in one VM. What a repeated step finds, and does:
//!
//! | found | done |
//! |---|---|
//! | planned | claimed by condition, then started |
//! | claimed or started, same VM epoch | started again: the journal knows the id and only attaches |
//! | claimed or started, other VM epoch | `lost`; claimed anew only where running twice does no harm |
//! | ended | its result, nothing touched |

mod ending;
mod watching;

use std::time::Duration;

use jiff::SignedDuration;
use pvm_contracts::steps::{RunToolInput, RunToolOutput, ToolState};
use pvm_domain::Timestamp;
use pvm_domain::conversation::{Approval, ApprovalStatus, CallOrigin, CallStatus, Run, ToolCall};
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::ids::OwnerId;
use pvm_domain::limits;
use pvm_domain::project::Project;
use serde_json::json;

use super::draft::load_run;
use super::in_vm::context_of;
use super::polls::pause_after;
use super::step::TRIES;
use super::{calls, family};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::keys;
use crate::ports::{Ambient, ConnectVm, RequestSave, RunCommands, StartExecution, VmError};
use crate::ports_tools::{ToolContext, ToolDefinition, Tools};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm::{self, ReadyVm};
use watching::Watched;

/// The VM may take this long to get ready; the workflow enters the step again.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The step. `input.polls` is how often the call was looked at before.
///
/// # Errors
/// `vm_not_ready` and those of the VM and the store; each may be tried again.
pub async fn run_tool<S, W, V, T, R, A>(
    store: &S,
    workflow: &W,
    vm: &V,
    tools: &T,
    saver: &R,
    ambient: &A,
    input: RunToolInput,
) -> AppResult<RunToolOutput>
where
    S: WriteStore,
    W: StartExecution,
    V: ConnectVm + RunCommands,
    T: Tools,
    R: RequestSave,
    A: Ambient,
{
    let work = Work { store, workflow, vm, tools, saver, ambient, entered: ambient.now() };
    let delay = work.drive(&input).await?;
    let (status, delay_secs) = match delay {
        None => (ToolState::Done, 0),
        Some(secs) => (ToolState::Running, secs),
    };
    Ok(RunToolOutput {
        conversation_id: input.conversation_id,
        run_id: input.run_id,
        tool_call_id: input.tool_call_id,
        status,
        delay_secs,
        polls: input.polls + 1,
    })
}

/// The VM and what is told to the tool.
struct Place {
    context: ToolContext,
    vm: Option<ReadyVm>,
    /// The project's owner, in whose name commands are counted.
    owner: Option<OwnerId>,
}

struct Work<'a, S, W, V, T, R, A> {
    store: &'a S,
    workflow: &'a W,
    vm: &'a V,
    tools: &'a T,
    saver: &'a R,
    ambient: &'a A,
    /// When this step began to work.
    entered: Timestamp,
}

impl<S, W, V, T, R, A> Work<'_, S, W, V, T, R, A>
where
    S: WriteStore,
    W: StartExecution,
    V: ConnectVm + RunCommands,
    T: Tools,
    R: RequestSave,
    A: Ambient,
{
    /// Drives the call on; answers the seconds to the next look, `None` where it ended.
    async fn drive(&self, input: &RunToolInput) -> AppResult<Option<u64>> {
        for _ in 0..TRIES {
            let call = calls::load(self.store, &input.conversation_id, &input.tool_call_id).await?;
            let run = load_run(self.store, &input.conversation_id, &input.run_id).await?;
            if call.status.is_final() {
                self.make_up_for(&run, &call).await;
                return Ok(None);
            }
            if run.is_over() {
                self.close(call).await?;
                continue;
            }
            if family::is_orphan(self.store, &run).await? {
                self.end(call, CallStatus::Cancelled, calls::error("Cancelled before it ran.")).await?;
                continue;
            }
            if let Some(why) = self.not_approved(&call).await? {
                self.end(call, CallStatus::Failed, calls::error(why)).await?;
                continue;
            }
            match self.go(&run, call, input.polls).await? {
                Went::On(delay) => return Ok(delay),
                Went::Again => {}
            }
        }
        Err(AppError::new(ErrorCode::Unavailable, "The tool call keeps changing; try again in a moment."))
    }

    fn definition(&self, name: &str) -> Option<&ToolDefinition> {
        self.tools.definitions().iter().find(|tool| tool.name == name)
    }

    /// Why the call may not run although it is asked to, if so. The decision is good only for what was shown.
    async fn not_approved(&self, call: &ToolCall) -> AppResult<Option<&'static str>> {
        let Some(id) = &call.approval_id else { return Ok(None) };
        let approval: Option<Approval> = self.store.get(&keys::approval(&call.conversation_id, id)).await?;
        let hash = calls::request_hash(&call.name, &call.arguments);
        Ok(match approval {
            Some(approval)
                if approval.status == ApprovalStatus::Approved && approval.request_hash == hash =>
            {
                None
            }
            Some(approval) if approval.status == ApprovalStatus::Approved => {
                Some("Not run: what was approved is not what was asked for.")
            }
            _ => Some("Not run: it was not approved."),
        })
    }

    async fn go(&self, run: &Run, call: ToolCall, polls: u32) -> AppResult<Went> {
        let place = self.place(run, &call).await?;
        let repeatable = self.may_run_twice(&call);
        // Whatever would be started now; a call that was started in the machine before is lost, as everywhere.
        if is_fenced(run, &place) && (call.status == CallStatus::Planned || repeatable) {
            let text =
                "Not run: the machine was replaced, and this lane's copy of the workspace went with it.";
            self.end(call, CallStatus::Failed, calls::error(text)).await?;
            return Ok(Went::Again);
        }
        let epoch = place.vm.as_ref().map(|vm| vm.epoch);
        let call = match call.status {
            CallStatus::Planned => match self.claim(call, &place).await? {
                Some(call) => call,
                None => return Ok(Went::Again),
            },
            // This poll was noted before, and the step died after that.
            CallStatus::Started if call.epoch == epoch && call.polls > polls => {
                return Ok(Went::On(Some(pause_after(polls))));
            }
            _ if call.epoch == epoch && (polls > 0 || !self.is_stale(&call)) => call,
            _ if repeatable => match self.claim(call, &place).await? {
                Some(call) => call,
                None => return Ok(Went::Again),
            },
            _ => {
                self.lose(call).await?;
                return Ok(Went::Again);
            }
        };
        match self.watch(run, &call, &place, polls > 0).await {
            Ok(Watched::Ended(result)) => {
                let changes_files = run.lane.is_none() && self.may_change_files(&call);
                self.remember_installs(run, &call, &result).await;
                self.end(call, CallStatus::Done, result).await?;
                if changes_files {
                    self.saver.request_save(&run.project_id).await;
                }
                Ok(Went::On(None))
            }
            Ok(Watched::Running(output)) => self.still_running(call, output, polls).await,
            Ok(Watched::Settled) => Ok(Went::Again),
            Ok(Watched::Cancelled) => {
                self.end(call, CallStatus::Cancelled, calls::error("Cancelled while it ran.")).await?;
                Ok(Went::Again)
            }
            Err(error @ (VmError::Gone | VmError::Paused)) => {
                if let Some(vm) = &place.vm {
                    let (store, ambient) = (self.store, self.ambient);
                    vm::lease::note_away(store, ambient, &run.project_id, &vm.vm_id, &error).await?;
                }
                // In one that was paused it goes on.
                if !repeatable && matches!(error, VmError::Gone) {
                    self.lose(call).await?;
                }
                Ok(Went::Again)
            }
            // The VM does not know it: where that does no harm it is started again.
            Err(VmError::NotFound(_)) if repeatable => self.claim(call, &place).await.map(|_| Went::Again),
            Err(VmError::NotFound(_)) => {
                self.lose(call).await?;
                Ok(Went::Again)
            }
            Err(VmError::Refused(why)) => {
                let result = calls::error(format!("The machine refused it: {why}"));
                self.end(call, CallStatus::Done, result).await?;
                Ok(Went::Again)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn may_run_twice(&self, call: &ToolCall) -> bool {
        let definition = self.definition(&call.name).filter(|_| call.origin == CallOrigin::Tool);
        definition.is_some_and(|tool| tool.read_only || tool.idempotent)
    }

    /// Whether its start is so long ago that the VM's journal may have forgotten it: it must not be started again.
    fn is_stale(&self, call: &ToolCall) -> bool {
        let most = SignedDuration::from_secs(limits::COMMAND_START_SECS.cast_signed());
        call.started_at.is_some_and(|at| self.ambient.now().duration_since(at) >= most)
    }

    /// Whether it counts as a command of the minute.
    fn runs_command(&self, call: &ToolCall) -> bool {
        call.origin == CallOrigin::VmLine || self.definition(&call.name).is_some_and(|tool| tool.runs_command)
    }

    /// A lane's worktree is outside of the workspace until it is merged, so lanes ask for no save.
    fn may_change_files(&self, call: &ToolCall) -> bool {
        call.origin == CallOrigin::VmLine
            || self.definition(&call.name).is_some_and(|tool| tool.may_change_files)
    }

    /// Where the call runs: the VM is readied where it needs one.
    async fn place(&self, run: &Run, call: &ToolCall) -> AppResult<Place> {
        let needs_vm =
            call.origin == CallOrigin::VmLine || self.definition(&call.name).is_none_or(|tool| tool.needs_vm);
        let ready = if needs_vm {
            let (store, workflow, vm) = (self.store, self.workflow, self.vm);
            Some(vm::ready(store, workflow, vm, self.ambient, &run.project_id, READY_WITHIN).await?)
        } else {
            None
        };
        let project: Option<Project> = self.store.get(&keys::project(&run.project_id)).await?;
        let owner = project.as_ref().map(|project| project.owner.clone());
        let vm_id = ready.as_ref().map(|vm| vm.vm_id.clone()).unwrap_or_default();
        let context = ToolContext {
            epoch: ready.as_ref().map_or(0, |vm| vm.epoch),
            env: project.map(|project| project.env).unwrap_or_default(),
            ..context_of(run, call, &vm_id)
        };
        Ok(Place { context, vm: ready, owner })
    }

    /// Claims the call for this VM before anything is started. `None` where somebody else was faster, or where the owner
    /// runs too much: the model is then told to wait.
    async fn claim(&self, mut call: ToolCall, place: &Place) -> AppResult<Option<ToolCall>> {
        let now = self.ambient.now();
        let first = call.status == CallStatus::Planned;
        let planned = call.clone();
        call.status = CallStatus::Claimed;
        call.epoch = place.vm.as_ref().map(|vm| vm.epoch);
        call.vm_id = place.vm.as_ref().map(|vm| vm.vm_id.clone());
        call.started_at.get_or_insert(now);
        let mut tx = Tx::new().update(&mut call);
        if first {
            let data = json!({
                "run_id": call.run_id,
                "tool_call_id": call.tool_call_id,
                "name": call.name,
                "origin": call.origin,
                "arguments": calls::shown_arguments(&call.arguments),
            });
            let event = NewEvent::new(EventType::ToolStarted, now, data).by(&call.agent_id);
            tx = tx.append(&LogId::Conversation(call.conversation_id.clone()), event);
        }
        // Started again in another VM it is the same call, which was counted.
        if let Some(owner) = place.owner.as_ref().filter(|_| first && self.runs_command(&call)) {
            tx = fair_use::counting_a_command(self.store, owner, tx, now).await?;
        }
        match self.store.commit(tx).await {
            Ok(_) => Ok(Some(call)),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error @ StoreError::Limit { .. }) => {
                let text = AppError::from(error).for_model();
                self.end(planned, CallStatus::Failed, calls::error(text)).await?;
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }
}

/// Whether the run is a lane whose copy of the workspace was in another machine than this.
fn is_fenced(run: &Run, place: &Place) -> bool {
    match (&run.lane, &place.vm) {
        (Some(lane), Some(vm)) => lane.fence != vm.epoch,
        _ => false,
    }
}

enum Went {
    /// As far as this step goes.
    On(Option<u64>),
    /// The record changed: look at it again.
    Again,
}
