//! ContinueNew: the run goes on in a new workflow execution, so that no execution's history grows without end.

use pvm_contracts::steps::{NextStep, RunInput, RunOutput, StepControl};
use pvm_domain::conversation::Run;
use pvm_domain::conversation::core::Input;

use super::draft::{Draft, Extra, load_conversation, load_run};
use super::meter;
use super::step::{TRIES, pause};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{Ambient, Machine, StartExecution, Started};
use crate::store::{StoreError, WriteStore};

/// The step.
///
/// # Errors
/// Of the store or the workflow engine.
pub async fn continue_run<S: WriteStore, W: StartExecution, A: Ambient>(
    store: &S,
    workflow: &W,
    ambient: &A,
    input: RunInput,
) -> AppResult<RunOutput> {
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, &input.conversation_id).await?;
        let mut run = load_run(store, &input.conversation_id, &input.run_id).await?;
        if run.is_over() || run.segment > input.segment {
            // Done before; the start may have been lost after it, and starting twice starts once.
            if !run.is_over() {
                start(workflow, &run).await?;
            }
            return Ok(input.output(StepControl::next(NextStep::Finish)));
        }
        let mut draft = Draft::new(store, conversation, ambient.now());
        run.segment += 1;
        run.core.usage.transitions += meter::CONTINUE;
        draft.apply(&mut run, Input::Segment, &Extra::default()).await?;
        draft.save(&mut run);
        match draft.commit().await {
            Ok(_) => {
                start(workflow, &run).await?;
                return Ok(input.output(StepControl::next(NextStep::Finish)));
            }
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The run keeps changing; try again in a moment."))
}

/// Starts the execution of a run's current segment. Safe to repeat: its name is always the same.
///
/// # Errors
/// Of the workflow engine.
pub(crate) async fn start(workflow: &impl StartExecution, run: &Run) -> AppResult<Started> {
    let input = RunInput {
        conversation_id: run.conversation_id.clone(),
        run_id: run.run_id.clone(),
        segment: run.segment,
    };
    let input = serde_json::to_value(input).map_err(|error| {
        AppError::new(ErrorCode::Internal, "The workflow's input cannot be written.").because(error)
    })?;
    Ok(workflow.start(Machine::RunTurn, &run.execution_name(), &input).await?)
}
