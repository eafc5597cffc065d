//! One change of a run's state: read, apply an input, commit; redone when somebody else was faster.

use std::time::Duration;

use pvm_domain::conversation::core::{Input, Next, advance};
use pvm_domain::conversation::{Conversation, Run};
use pvm_domain::ids::{ConversationId, RunId};

use super::draft::{Done, Draft, Extra, load_conversation, load_run};
use super::{calls, family, meter};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::ports::Ambient;
use crate::store::{StoreError, WriteStore};

/// Races on one conversation are between its run, its users and up to ten lanes.
pub(crate) const TRIES: u32 = 40;

/// What a step adds to a run's bill.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    /// Milliseconds that the step worked.
    pub(crate) step_ms: u64,
    /// State transitions.
    pub(crate) transitions: u32,
    /// The longest wait that the step makes itself, in seconds; others are a state of their own.
    pub(crate) longest_wait_secs: u64,
}

/// What to apply.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// Ask what comes next, with the calls as they stand.
    Proceed,
    /// The same, but leave everything as it is where a model call would come next.
    ProceedUnlessCall,
    /// Something that happened.
    Input(Input),
}

/// The state after a step.
#[derive(Debug)]
pub(crate) struct Stepped {
    /// The run as stored.
    pub(crate) run: Run,
    /// What comes next; `None` where nothing was changed because a model call would come next.
    pub(crate) next: Option<Next>,
    /// What the commit leaves to do.
    pub(crate) done: Done,
}

/// Applies `ask` to a run. `segment` names the workflow execution that asks, if one does: an older one changes nothing
/// and is told to finish.
///
/// # Errors
/// Of the store; `conflict` when others kept being faster.
#[expect(
    clippy::too_many_arguments,
    reason = "each is a port or an input; a struct of them would hide which"
)]
pub(crate) async fn step<S: WriteStore, A: Ambient>(
    store: &S,
    ambient: &A,
    conversation_id: &ConversationId,
    run_id: &RunId,
    segment: Option<u32>,
    ask: &Ask,
    extra: &Extra,
    spent: Meter,
) -> AppResult<Stepped> {
    for attempt in 0..TRIES {
        let conversation = load_conversation(store, conversation_id).await?;
        let mut run = load_run(store, conversation_id, run_id).await?;
        if segment.is_some_and(|segment| segment != run.segment) {
            return Ok(unchanged(conversation, run, Next::Finish));
        }
        let input = match ask {
            Ask::Input(input) => input.clone(),
            Ask::Proceed | Ask::ProceedUnlessCall if family::is_orphan(store, &run).await? => {
                Input::Cancel { reason: "cancelled", detail: "The run of all lanes ended.".to_owned() }
            }
            Ask::Proceed | Ask::ProceedUnlessCall => {
                if let Some(spent) = family::spent(store, &conversation, &run).await? {
                    run.core.rules.spent = spent;
                }
                Input::Proceed { calls: calls::seen(store, &run).await?, vm_ready: run.vm_epoch.is_some() }
            }
        };
        let now = ambient.now();
        let foreseen = advance(&run.core, run_id, input.clone(), now);
        if matches!((ask, &foreseen.next), (Ask::ProceedUnlessCall, Next::Call(_))) {
            return Ok(Stepped { next: None, ..unchanged(conversation, run, Next::Think) });
        }
        // The clock alone is no change worth a write.
        if foreseen.core.with_clock_of(&run.core) == run.core && foreseen.effects.is_empty() {
            return Ok(unchanged(conversation, run, foreseen.next));
        }
        let mut draft = Draft::new(store, conversation, now);
        run.core.usage.step_ms += spent.step_ms;
        run.core.usage.transitions += spent.transitions;
        // An end from outside is followed by no state: the execution is stopped. A fault has its own states.
        if segment.is_some() && !matches!(ask, Ask::Input(Input::Fail { .. })) {
            run.core.usage.transitions += meter::after(&foreseen.next, spent.longest_wait_secs);
        }
        let next = draft.apply(&mut run, input, extra).await?;
        draft.save(&mut run);
        if run.is_over() && run.lane.is_none() {
            draft.promote().await?;
        }
        match draft.commit().await {
            Ok(done) => return Ok(Stepped { run, next: Some(next), done }),
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The conversation keeps changing; try again in a moment."))
}

/// How long to stand back after a race.
pub(crate) fn pause(attempt: u32) -> Duration {
    Duration::from_millis(u64::from(attempt.min(10)) * 5)
}

fn unchanged(conversation: Conversation, run: Run, next: Next) -> Stepped {
    Stepped { run, next: Some(next), done: Done { conversation, promoted: None } }
}
