//! Begin: a workflow execution takes its run. The first one begins it.

use pvm_contracts::steps::{NextStep, RunInput, RunOutput, StepControl};
use pvm_domain::conversation::core::{Input, Phase};
use pvm_domain::conversation::mentions;

use super::draft::{Extra, load_run};
use super::meter;
use super::step::{Ask, Meter, step};
use crate::error::{AppResult, ErrorCode};
use crate::ports::Ambient;
use crate::store::WriteStore;

/// The step. An execution that is not the run's current one is sent to the end, where it changes nothing.
///
/// # Errors
/// Of the store.
pub async fn begin<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    input: RunInput,
) -> AppResult<RunOutput> {
    let run = match load_run(store, &input.conversation_id, &input.run_id).await {
        Ok(run) => run,
        // Deleted with its project while the execution was on its way.
        Err(error) if error.code == ErrorCode::NotFound => {
            return Ok(input.output(StepControl::next(NextStep::Finish)));
        }
        Err(error) => return Err(error),
    };
    if run.is_over() || run.segment != input.segment {
        return Ok(input.output(StepControl::next(NextStep::Finish)));
    }
    if run.core.phase == Phase::New {
        let seats: Vec<&str> = run.core.rules.seats.iter().map(|seat| seat.agent_id.as_str()).collect();
        let mentions = mentions(&run.initial_message, seats.iter().copied());
        let ask = Ask::Input(Input::Begin { mentions });
        let spent = Meter { transitions: meter::BEGIN, ..Meter::default() };
        let extra = Extra::default();
        step(store, ambient, &input.conversation_id, &input.run_id, Some(input.segment), &ask, &extra, spent)
            .await?;
    }
    Ok(input.output(StepControl::next(NextStep::Think)))
}
