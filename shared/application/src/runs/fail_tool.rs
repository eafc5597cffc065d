//! ToolFailed: the workflow gave a call up. It gets a result that says so, and the run goes on.

use pvm_contracts::steps::{FailToolInput, RunToolOutput, ToolState, caught};
use pvm_domain::conversation::CallStatus;
use pvm_domain::event::LogId;
use pvm_domain::text::head_and_tail;

use super::calls;
use super::step::{TRIES, pause};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::Ambient;
use crate::store::{StoreError, Tx, WriteStore};

/// The step.
///
/// # Errors
/// Of the store.
pub async fn fail_tool<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    input: FailToolInput,
) -> AppResult<RunToolOutput> {
    let why = head_and_tail(&caught(&input.error, &input.cause), 1000).0;
    for attempt in 0..TRIES {
        let mut call = calls::load(store, &input.conversation_id, &input.tool_call_id).await?;
        let polls = call.polls;
        let output = |input: FailToolInput| RunToolOutput {
            conversation_id: input.conversation_id,
            run_id: input.run_id,
            tool_call_id: input.tool_call_id,
            status: ToolState::Done,
            delay_secs: 0,
            polls,
        };
        if call.status.is_final() {
            return Ok(output(input));
        }
        let text = if call.status == CallStatus::Planned {
            format!("Not run: {why}")
        } else {
            format!("It could not be watched to its end, and whether it was done is not known: {why}")
        };
        let now = ambient.now();
        calls::finish(&mut call, CallStatus::Failed, calls::error(text), now);
        let event = calls::finished_event(&call, now);
        let log = LogId::Conversation(call.conversation_id.clone());
        match store.commit(Tx::new().update(&mut call).append(&log, event)).await {
            Ok(_) => return Ok(output(input)),
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The tool call keeps changing; try again in a moment."))
}
