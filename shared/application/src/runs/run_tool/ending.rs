//! The end of a call: noted once, with its event, and what it brings.

use pvm_domain::conversation::{CallOrigin, CallResult, CallStatus, Run, ToolCall};
use pvm_domain::event::LogId;

use super::Work;
use crate::error::AppResult;
use crate::ports::{Ambient, ConnectVm, RequestSave, RunCommands, StartExecution};
use crate::ports_tools::Tools;
use crate::runs::kills::kill;
use crate::runs::{calls, meter};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm;

impl<S, W, V, T, R, A> Work<'_, S, W, V, T, R, A>
where
    S: WriteStore,
    W: StartExecution,
    V: ConnectVm + RunCommands,
    T: Tools,
    R: RequestSave,
    A: Ambient,
{
    /// The call had its end before this step came to it: what its end brings may have been lost with whoever noted it. A
    /// cancelled command is killed, and what a call changed is saved; doing either twice does no harm.
    pub(super) async fn make_up_for(&self, run: &Run, call: &ToolCall) {
        if call.vm_id.is_none() || call.started_at.is_none() {
            return;
        }
        if call.status == CallStatus::Cancelled
            && let Err(error) = kill(self.vm, call).await
        {
            tracing::warn!(tool_call.id = %call.tool_call_id, %error, "a cancelled call could not be killed");
        }
        if run.lane.is_none() && call.status != CallStatus::Lost && self.may_change_files(call) {
            self.saver.request_save(&run.project_id).await;
        }
    }

    /// Notes what a `/vm` line installed, so that the next VM has it too. Tools do that themselves. Such a line runs where
    /// the one before it ended, which nobody here knows.
    pub(super) async fn remember_installs(&self, run: &Run, call: &ToolCall, result: &CallResult) {
        let line = call.arguments.get("command").and_then(serde_json::Value::as_str);
        if let (CallOrigin::VmLine, false, Some(line), Some(epoch)) =
            (call.origin, result.is_error, line, call.epoch)
        {
            let place = vm::recipe::Place { working_dir: None, user: "user", epoch };
            vm::recipe::record_line(self.store, &run.project_id, line, place).await;
        }
    }

    pub(super) async fn lose(&self, call: ToolCall) -> AppResult<()> {
        let text = "Lost: the machine went away while this ran. Nobody knows whether or how far it was done, and it was \
                    not run again. Look at the state of things before you repeat it.";
        self.end(call, CallStatus::Lost, calls::error(text)).await
    }

    /// A call of a run that has ended: its record is closed, and nothing is told after the run's end.
    pub(super) async fn close(&self, mut call: ToolCall) -> AppResult<()> {
        let result = calls::error("Cancelled: the run has ended.");
        calls::finish(&mut call, CallStatus::Cancelled, result, self.ambient.now());
        match self.store.commit(Tx::new().update(&mut call)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// Notes a call's end. Where somebody else noted one before, theirs stays.
    pub(super) async fn end(
        &self,
        mut call: ToolCall,
        status: CallStatus,
        result: CallResult,
    ) -> AppResult<()> {
        let now = self.ambient.now();
        call.step_ms += meter::millis(self.entered, now);
        calls::finish(&mut call, status, result, now);
        let event = calls::finished_event(&call, now);
        let log = LogId::Conversation(call.conversation_id.clone());
        match self.store.commit(Tx::new().update(&mut call).append(&log, event)).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}
