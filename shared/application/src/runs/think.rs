//! Think: asks the rules what comes next and, where that is a model call, makes it. The answer is committed before
//! anything else happens; a crash before that makes a further try of the same message.

use std::time::Duration;

use pvm_contracts::steps::{NextStep, RunInput, RunOutput, StepControl, ToolItem};
use pvm_domain::conversation::core::{Call, CallFailure, Input, Next, Purpose};
use pvm_domain::conversation::{Conversation, Run};

use super::draft::Extra;
use super::meter;
use super::speak::{self, Spoken};
use super::step::{Ask, Meter, step};
use crate::error::AppResult;
use crate::ports::{Ambient, GetObject};
use crate::ports_model::CallModel;
use crate::ports_tools::Tools;
use crate::store::WriteStore;

/// Waits up to this many seconds are made here; longer ones cost less as a state of the workflow.
const SHORT_WAIT_SECS: u64 = 3;
/// A step that has worked for this long makes no further call, in milliseconds: the state's time must hold a whole one.
const BUSY_MILLIS: u64 = 30_000;

/// The step.
///
/// # Errors
/// Of the store; `internal` where the run cannot be read. Trouble with the model is a state of the run, not an error.
pub async fn think<S, O, M, T, A>(
    store: &S,
    objects: &O,
    models: &M,
    tools: &T,
    ambient: &A,
    input: RunInput,
) -> AppResult<RunOutput>
where
    S: WriteStore,
    O: GetObject,
    M: CallModel,
    T: Tools,
    A: Ambient,
{
    let entered = ambient.now();
    let mut from = entered;
    let mut waits_here = SHORT_WAIT_SECS;
    let mut spent = Meter { transitions: meter::THINK, ..Meter::default() };
    let mut ask = Ask::Proceed;
    let mut extra = Extra::default();
    loop {
        let (conversation_id, run_id) = (&input.conversation_id, &input.run_id);
        let stepped =
            step(store, ambient, conversation_id, run_id, Some(input.segment), &ask, &extra, spent).await?;
        spent = Meter::default();
        extra = Extra::default();
        let control = match stepped.next {
            None => StepControl::next(NextStep::Think),
            Some(Next::Call(call)) => {
                let (conversation, run) = (stepped.done.conversation, stepped.run);
                let answer = answer(store, objects, models, tools, ambient, &conversation, &run, &call).await;
                let (next, brought) = answer?;
                spent.step_ms = meter::millis(from, ambient.now());
                from = ambient.now();
                waits_here = if meter::millis(entered, from) < BUSY_MILLIS { SHORT_WAIT_SECS } else { 0 };
                spent.longest_wait_secs = waits_here;
                ask = Ask::Input(next);
                extra = brought;
                continue;
            }
            // Whatever needs no model is decided at once; the next model call gets a step of its own.
            Some(Next::Think) => {
                ask = Ask::ProceedUnlessCall;
                continue;
            }
            Some(Next::Wait { secs }) if secs <= waits_here => {
                ambient.sleep(Duration::from_secs(secs)).await;
                ask = Ask::Proceed;
                continue;
            }
            // The input came late: somebody else has gone on.
            Some(Next::Nothing) => StepControl::next(NextStep::Think),
            Some(next) => control(next),
        };
        return Ok(input.output(control));
    }
}

fn control(next: Next) -> StepControl {
    match next {
        Next::Act { calls, parallel } => StepControl {
            items: calls.into_iter().map(|tool_call_id| ToolItem { tool_call_id }).collect(),
            ..StepControl::next(if parallel { NextStep::ActParallel } else { NextStep::Act })
        },
        Next::Approve(approval_id) => {
            StepControl { approval_id: Some(approval_id), ..StepControl::next(NextStep::Approve) }
        }
        Next::Wait { secs } => StepControl { delay_secs: secs, ..StepControl::next(NextStep::Wait) },
        Next::EnsureVm => StepControl { needs_vm: true, ..StepControl::next(NextStep::EnsureVm) },
        Next::NextSegment => StepControl::next(NextStep::Continue),
        Next::Lanes(_) => StepControl::next(NextStep::Lanes),
        Next::Finish => StepControl::next(NextStep::Finish),
        Next::Nothing | Next::Think | Next::Call(_) => StepControl::next(NextStep::Think),
    }
}

/// Makes the call and puts its outcome into the rules' words.
#[expect(clippy::too_many_arguments, reason = "five ports and the three things they are used for")]
async fn answer<S, O, M, T, A>(
    store: &S,
    objects: &O,
    models: &M,
    tools: &T,
    ambient: &A,
    conversation: &Conversation,
    run: &Run,
    call: &Call,
) -> AppResult<(Input, Extra)>
where
    S: WriteStore,
    O: GetObject,
    M: CallModel,
    T: Tools,
    A: Ambient,
{
    let prepared = speak::prepare(store, objects, models, tools, ambient, conversation, run, call).await?;
    let (step, attempt) = (call.step, call.attempt);
    let failed = |failure| Input::CallFailed { step, attempt, failure };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return Ok((failed(failure), Extra::default())),
    };
    let mut extra = Extra {
        opaque: None,
        answered_by: Some((prepared.request.model.clone(), prepared.request_hash.clone())),
        summary_up_to: prepared.summary_up_to,
    };
    let spoken = speak::speak(store, models, ambient, run, call, &prepared).await?;
    let input = match spoken {
        Spoken::Answer(answer) => {
            if call.purpose == Purpose::Speak {
                extra.opaque = speak::kept_opaque(&answer).map(|kept| (prepared.provider().to_owned(), kept));
            }
            let answer = speak::read(&prepared, tools.definitions(), answer);
            Input::Answered { step, attempt, answer }
        }
        Spoken::Failed(failure) => failed(failure),
        // The run went on or ended without this call: an input of an older try changes nothing.
        Spoken::Overtaken => failed(CallFailure::Busy { retry_after_secs: None }),
    };
    Ok((input, extra))
}
