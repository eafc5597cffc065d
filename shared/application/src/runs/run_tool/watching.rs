//! Watching a call in its VM: for the inline time, and from one step to the next.

use std::time::Duration;

use pvm_domain::conversation::{CallOrigin, CallResult, CallStatus, Run, ToolCall};
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::limits;
use serde_json::json;

use super::{Place, Went, Work};
use crate::error::AppResult;
use crate::ports::{Ambient, ConnectVm, RequestSave, RunCommands, StartExecution, VmError};
use crate::ports_tools::{ToolProgress, Tools};
use crate::runs::in_vm::to_result;
use crate::runs::kills::kill;
use crate::runs::polls::pause_after;
use crate::runs::{calls, family, meter, shell};
use crate::store::{StoreError, Tx, WriteStore};

/// While a call runs, its record is looked at this often, so that a cancel kills it.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time of a run in the VM that is watched inline.
const INLINE: Duration = Duration::from_secs(limits::STEP_INLINE_WAIT_SECS);
/// Output of a running call in an event, in bytes.
const OUTPUT_IN_EVENT_BYTES: usize = 4096;

/// What came of watching.
pub(super) enum Watched {
    Ended(CallResult),
    Running(String),
    /// Somebody else gave the record its end.
    Settled,
    /// The run that this one is a lane of has ended; what ran is killed.
    Cancelled,
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
    /// Starts or attaches, and watches for the inline time. In between, the record is looked at: a cancelled call is
    /// killed.
    pub(super) async fn watch(
        &self,
        run: &Run,
        call: &ToolCall,
        place: &Place,
        polling: bool,
    ) -> Result<Watched, VmError> {
        let until = self.ambient.now() + INLINE;
        let mut started = polling && call.status == CallStatus::Started;
        loop {
            let progress = self.look(call, place, started).await?;
            let output = match progress {
                ToolProgress::Done(result) => return Ok(Watched::Ended(to_result(result))),
                ToolProgress::Running { output, .. } => output,
            };
            started = true;
            match calls::load(self.store, &call.conversation_id, &call.tool_call_id).await {
                Ok(now) if now.status == CallStatus::Cancelled => {
                    kill(self.vm, call).await?;
                    return Ok(Watched::Settled);
                }
                Ok(now) if now.status.is_final() => return Ok(Watched::Settled),
                Ok(_) => {}
                Err(error) => return Err(VmError::Unavailable(error.into())),
            }
            match family::is_orphan(self.store, run).await {
                Ok(false) => {}
                Ok(true) => {
                    kill(self.vm, call).await?;
                    return Ok(Watched::Cancelled);
                }
                Err(error) => return Err(VmError::Unavailable(error.into())),
            }
            if self.ambient.now() >= until {
                return Ok(Watched::Running(output));
            }
        }
    }

    async fn look(&self, call: &ToolCall, place: &Place, started: bool) -> Result<ToolProgress, VmError> {
        let (context, arguments) = (&place.context, &call.arguments);
        match (call.origin, started) {
            (CallOrigin::VmLine, false) => shell::start(self.vm, call, context, LOOK_EVERY).await,
            (CallOrigin::VmLine, true) => shell::poll(self.vm, call, context, LOOK_EVERY).await,
            (CallOrigin::Tool, false) => self.tools.start(context, &call.name, arguments, LOOK_EVERY).await,
            (CallOrigin::Tool, true) => self.tools.poll(context, &call.name, arguments, LOOK_EVERY).await,
        }
    }

    /// The call outlasts the inline time: the workflow comes back, until the model is told that it still runs.
    pub(super) async fn still_running(
        &self,
        mut call: ToolCall,
        output: String,
        polls: u32,
    ) -> AppResult<Went> {
        if polls >= limits::TOOL_POLLS_MAX {
            let text = format!(
                "{output}\n[still running; it goes on in the machine as {}. Look at it with get_command.]",
                call.tool_call_id
            );
            let result = CallResult { is_error: false, text, structured: None, output_path: None };
            self.end(call, CallStatus::Done, result).await?;
            return Ok(Went::Again);
        }
        let now = self.ambient.now();
        call.status = CallStatus::Started;
        call.polls = polls + 1;
        call.step_ms += meter::millis(self.entered, now);
        let shown = pvm_domain::text::head_and_tail(&output, OUTPUT_IN_EVENT_BYTES).0;
        let data = json!({"run_id": call.run_id, "tool_call_id": call.tool_call_id, "poll": call.polls,
            "text": shown});
        let event = NewEvent::new(EventType::ToolOutput, now, data).by(&call.agent_id);
        let log = LogId::Conversation(call.conversation_id.clone());
        match self.store.commit(Tx::new().update(&mut call).append(&log, event)).await {
            Ok(_) => Ok(Went::On(Some(pause_after(polls)))),
            Err(StoreError::Conflict { .. }) => Ok(Went::Again),
            Err(other) => Err(other.into()),
        }
    }
}
