//! EnsureVm: the VM is readied and held, so that it is not paused while the run works.

use std::time::Duration;

use pvm_contracts::steps::{NextStep, RunInput, RunOutput, StepControl};
use pvm_domain::conversation::Run;
use pvm_domain::conversation::core::Input;

use super::draft::{Extra, load_run};
use super::meter;
use super::step::{Ask, Meter, TRIES, pause, step};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::{Ambient, ConnectVm, StartExecution};
use crate::store::{StoreError, Tx, WriteStore};
use crate::vm;

/// How long one entry of the step waits; the workflow enters it again until the VM is there.
const WITHIN: Duration = Duration::from_secs(40);

/// The step.
///
/// # Errors
/// `vm_not_ready` while it is not; the workflow tries again.
pub async fn ensure_vm<S: WriteStore, W: StartExecution, V: ConnectVm, A: Ambient>(
    store: &S,
    workflow: &W,
    vm: &V,
    ambient: &A,
    input: RunInput,
) -> AppResult<RunOutput> {
    let run = load_run(store, &input.conversation_id, &input.run_id).await?;
    if run.is_over() || run.segment != input.segment {
        return Ok(input.output(StepControl::next(NextStep::Finish)));
    }
    let ready = match vm::ready(store, workflow, vm, ambient, &run.project_id, WITHIN).await {
        Ok(ready) => ready,
        Err(error) if vm::is_refused(store, ambient, &run.project_id).await? => {
            return refuse(store, ambient, &input, error.detail).await;
        }
        Err(error) => return Err(error),
    };
    vm::hold(store, ambient, &run.project_id, &holder(&run)).await?;
    let held = note_held(store, ambient, run, ready.epoch, meter::ENSURE_VM).await?;
    if held.is_over() {
        // It was cancelled meanwhile, and whoever did that saw no VM to give back.
        release(store, ambient, held).await?;
        return Ok(input.output(StepControl::next(NextStep::Finish)));
    }
    Ok(input.output(StepControl::next(NextStep::Think)))
}

/// Ends a run whose VM would be refused again: trying that for minutes would only make its user wait.
async fn refuse<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    input: &RunInput,
    detail: String,
) -> AppResult<RunOutput> {
    let ask = Ask::Input(Input::Fail { reason: "vm_unavailable", detail });
    let (conversation, run, segment) = (&input.conversation_id, &input.run_id, Some(input.segment));
    let spent = Meter { transitions: meter::ENSURE_VM, ..Meter::default() };
    step(store, ambient, conversation, run, segment, &ask, &Extra::default(), spent).await?;
    Ok(input.clone().output(StepControl::next(NextStep::Finish)))
}

/// Notes that a run holds the VM of this epoch, and that it took so many transitions.
///
/// # Errors
/// Of the store.
pub(crate) async fn note_held<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    run: Run,
    epoch: u64,
    transitions: u32,
) -> AppResult<Run> {
    change(store, ambient, run, |run| {
        if run.vm_epoch != Some(epoch) || run.vm_since.is_none() {
            run.core.usage.transitions += transitions;
        }
        run.vm_epoch = Some(epoch);
        run.vm_since.get_or_insert(ambient.now());
    })
    .await
}

/// The name under which a run holds the VM: enough to find the run again.
pub fn holder(run: &Run) -> String {
    format!("{}/{}", run.conversation_id, run.run_id)
}

/// Gives the VM back, if the run holds it.
///
/// # Errors
/// Of the store.
pub(crate) async fn release<S: WriteStore, A: Ambient>(store: &S, ambient: &A, run: Run) -> AppResult<Run> {
    if run.vm_epoch.is_none() {
        return Ok(run);
    }
    vm::release(store, ambient, &run.project_id, &holder(&run)).await?;
    change(store, ambient, run, |run| {
        // What a run that has ended held is told already.
        meter::count_vm(run, ambient.now());
        run.vm_since = None;
        run.vm_epoch = None;
    })
    .await
}

/// Changes fields of a run that its rules know nothing of.
///
/// # Errors
/// Of the store; `unavailable` when others kept being faster.
pub(super) async fn change<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    mut run: Run,
    change: impl Fn(&mut Run) + Send,
) -> AppResult<Run> {
    for attempt in 0..TRIES {
        let before = run.clone();
        change(&mut run);
        if run == before {
            return Ok(run);
        }
        match store.commit(Tx::new().update(&mut run)).await {
            Ok(_) => return Ok(run),
            Err(StoreError::Conflict { .. }) => {
                ambient.sleep(pause(attempt)).await;
                run = load_run(store, &before.conversation_id, &before.run_id).await?;
            }
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The run keeps changing; try again in a moment."))
}
