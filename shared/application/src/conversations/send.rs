//! A further message: it begins a run, waits for the one under way, joins it, or ends it.

use pvm_contracts::conversations::{MessageAccepted, SendMessage};
use pvm_domain::conversation::core::{Input, Steer};
use pvm_domain::conversation::{Conversation, Delivery, InboxEntry, Run, mentions};
use pvm_domain::ids::MessageId;
use pvm_domain::limits;
use pvm_domain::project::Scope;

use super::cancel;
use super::find::find;
use super::new_run::{Whose, checked_message, new_run, pins};
use super::{Asked, RunPorts};
use crate::error::{AppError, AppResult, ErrorCode};
use crate::fair_use;
use crate::idempotency::replayed;
use crate::ports::{Ambient, GetObject, RunCommands, SendTask, StartExecution, StopExecution};
use crate::ports_model::KnowModels;
use crate::runs::{Draft, Extra, TRIES, load_conversation, load_run, pause, start_next};
use crate::store::{StoreError, WriteStore};

/// Takes a message. The VM is that of the run which the message may interrupt.
///
/// # Errors
/// `not_found`, `forbidden`, `invalid`; `limit_reached` where too many messages wait.
pub async fn send<S, O, W, V, M, A>(
    ports: RunPorts<'_, S, O, W, M, A>,
    vm: &V,
    asked: Asked<'_>,
    name: &str,
    input: SendMessage,
) -> AppResult<MessageAccepted>
where
    S: WriteStore,
    W: StartExecution + StopExecution + SendTask,
    V: RunCommands,
    M: KnowModels,
    O: GetObject,
    A: Ambient,
{
    let RunPorts { store, objects, workflow, models, ambient, check_tools } = ports;
    let Asked { principal, project_id, claim } = asked;
    let found = find(store, principal, project_id, name, Scope::Write).await?;
    let id = found.conversation_id;
    checked_message("message", &input.message)?;
    for attempt in 0..TRIES {
        if let Some(known) = replayed(store, claim, ambient.now()).await? {
            return accepted_before(store, &id, &known).await;
        }
        let conversation = load_conversation(store, &id).await?;
        let active = match &conversation.active_run {
            Some(run_id) => Some(load_run(store, &id, run_id).await?),
            None => None,
        };
        let now = ambient.now();
        let mut draft = Draft::new(store, conversation.clone(), now);
        draft.within(fair_use::limits_of(store, &conversation.owner).await?);
        let mut ended = None;
        let accepted = match (active, input.delivery) {
            (Some(run), Delivery::Steer) => steer(&mut draft, run, ambient, &input.message).await?,
            (active, delivery) => {
                let (owner, project_id) = (&conversation.owner, &conversation.project_id);
                let whose = Whose { owner, project_id, check_tools, now };
                let (agents, budget) = (&conversation.agent_ids, &conversation.budget);
                let agents = pins(store, objects, models, whose, agents, budget).await?;
                let (run, entry) = new_run(&conversation, agents, ambient, input.message.clone(), now);
                let accepted = (entry.message_id.clone(), run.run_id.clone());
                if let (Some(mut active), Delivery::Interrupt) = (active, delivery) {
                    let detail = "A new message interrupted it.".to_owned();
                    let cancel = Input::Cancel { reason: "interrupted", detail };
                    draft.apply(&mut active, cancel, &Extra::default()).await?;
                    draft.save(&mut active);
                    ended = Some(active);
                } else {
                    room(draft.conversation.queued.len(), limits::RUNS_WAITING)?;
                }
                draft.add_run(run, entry, delivery == Delivery::Interrupt);
                draft.promote().await?;
                accepted
            }
        };
        if let Some(claim) = claim {
            let resource = format!("{} {}", accepted.0, accepted.1);
            draft.write(|tx| tx.create(&mut claim.record(resource, now)));
        }
        match draft.commit().await {
            Ok(done) => {
                let conversation = done.conversation.clone();
                if let Some(run) = ended {
                    cancel::stop(store, workflow, vm, ambient, run).await?;
                } else {
                    start_next(store, workflow, &conversation).await?;
                }
                let run = load_run(store, &id, &accepted.1).await?;
                return Ok(answer(conversation, accepted.0, run));
            }
            Err(StoreError::Conflict { .. }) => ambient.sleep(pause(attempt)).await,
            Err(other) => return Err(other.into()),
        }
    }
    Err(AppError::new(ErrorCode::Unavailable, "The conversation keeps changing; try again in a moment."))
}

fn answer(conversation: Conversation, message_id: MessageId, run: Run) -> MessageAccepted {
    MessageAccepted {
        conversation_id: conversation.conversation_id,
        message_id,
        run_id: run.run_id,
        run_status: run.status,
    }
}

async fn accepted_before(
    store: &impl WriteStore,
    id: &pvm_domain::ids::ConversationId,
    known: &str,
) -> AppResult<MessageAccepted> {
    let missing = || AppError::not_found("message");
    let (message, run) = known.split_once(' ').ok_or_else(missing)?;
    let run = load_run(store, id, &run.parse().map_err(|_| missing())?).await?;
    let conversation = load_conversation(store, id).await?;
    Ok(answer(conversation, message.parse().map_err(|_| missing())?, run))
}

/// Whether one more may wait. A cancel closes all that wait in one transaction, see [`limits::CANCEL_ITEMS`].
fn room(waiting: usize, most: usize) -> AppResult<()> {
    if waiting < most {
        return Ok(());
    }
    let detail = format!("{most} messages wait already; wait for one of them to be taken up.");
    Err(AppError::new(ErrorCode::LimitReached, detail).retry_after(std::time::Duration::from_secs(5)))
}

/// The message joins the run under way before its next model call.
async fn steer<S: WriteStore, A: Ambient>(
    draft: &mut Draft<'_, S>,
    mut run: Run,
    ambient: &A,
    text: &str,
) -> AppResult<(MessageId, pvm_domain::ids::RunId)> {
    room(run.core.steers.len(), limits::STEERS_WAITING)?;
    let message_id: MessageId = ambient.new_id();
    let mut entry = InboxEntry {
        conversation_id: run.conversation_id.clone(),
        message_id: message_id.clone(),
        run_id: run.run_id.clone(),
        text: text.to_owned(),
        created_at: draft.now,
        version: 0,
    };
    draft.tell_user_message(&entry);
    draft.write(|tx| tx.create(&mut entry));
    let seats: Vec<String> = run.core.rules.seats.iter().map(|seat| seat.agent_id.clone()).collect();
    let mentions = mentions(text, seats.iter().map(String::as_str));
    let steer = Steer { message_id: message_id.clone(), mentions };
    draft.apply(&mut run, Input::Steered(steer), &Extra::default()).await?;
    let run_id = run.run_id.clone();
    draft.save(&mut run);
    Ok((message_id, run_id))
}
