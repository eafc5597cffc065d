//! A unit of work on a conversation: its record, the runs it touches, messages, calls and events, committed together.
//! Everything that changes a run goes through here, so that a state is never stored without its events.

mod messages;

use pvm_domain::Timestamp;
use pvm_domain::conversation::core::{Effect, Input, Next, advance};
use pvm_domain::conversation::{
    Author, CallRef, Conversation, ConversationStatus, InboxEntry, Message, OutcomeKind, Run, RunStatus, Step,
};
use pvm_domain::event::{EventType, LogId, NewEvent};
use pvm_domain::fair_use::OwnerLimits;
use pvm_domain::ids::{ConversationId, RunId, ToolCallId};
use serde_json::{Value, json};

use super::{calls, compaction, meter};
use crate::error::{AppError, AppResult};
use crate::keys;
use crate::ports_model::OpaqueBlock;
use crate::store::{ReadStore, StoreError, Tx, WriteStore};
use messages::user_message;

/// A run is looked at by the sweep when nothing was stored for it for this long, in seconds. Longer than a model call,
/// an inline wait or a workflow's backoff, so that a run that is well is never disturbed.
const QUIET_SECS: i64 = 900;
/// A run whose execution was asked for is looked at sooner, and one whose commands are to be killed: doing either again is
/// harmless.
const START_SECS: i64 = 30;

/// What an input brings that the rules do not hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extra {
    /// The provider and its opaque blocks of an answer.
    pub(crate) opaque: Option<(String, Vec<OpaqueBlock>)>,
    /// The model that answered, and the hash of the request.
    pub(crate) answered_by: Option<(String, String)>,
    /// Up to which place a summary reaches.
    pub(crate) summary_up_to: Option<u64>,
}

/// A unit of work in the making.
pub(crate) struct Draft<'a, S> {
    pub(crate) store: &'a S,
    pub(crate) now: Timestamp,
    pub(crate) conversation: Conversation,
    before: Conversation,
    tx: Tx,
    log: LogId,
    /// Calls that were cancelled and may be running: noted with their run, and killed after the commit.
    pub(super) cancelled: Vec<ToolCallId>,
    /// The run that became the active one: its execution is to be started after the commit.
    pub(crate) promoted: Option<Run>,
    /// A run, not stored yet, that may become the active one.
    fresh: Option<(Run, InboxEntry)>,
    /// Limits that the unit of work must keep to.
    limits: Option<OwnerLimits>,
}

/// Loads a conversation.
///
/// # Errors
/// `not_found`; of the store.
pub(crate) async fn load_conversation(
    store: &impl ReadStore,
    id: &ConversationId,
) -> AppResult<Conversation> {
    store.get(&keys::conversation(id)).await?.ok_or_else(|| AppError::not_found("conversation"))
}

/// Loads a run.
///
/// # Errors
/// `not_found`; of the store.
pub(crate) async fn load_run(
    store: &impl ReadStore,
    conversation: &ConversationId,
    run: &RunId,
) -> AppResult<Run> {
    store.get(&keys::run(conversation, run)).await?.ok_or_else(|| AppError::not_found("run"))
}

impl<'a, S: WriteStore> Draft<'a, S> {
    /// Work on a conversation as it was just read.
    pub(crate) fn new(store: &'a S, conversation: Conversation, now: Timestamp) -> Self {
        let log = LogId::Conversation(conversation.conversation_id.clone());
        let before = conversation.clone();
        let (cancelled, promoted, fresh) = (Vec::new(), None, None);
        Self {
            store,
            now,
            conversation,
            before,
            tx: Tx::new(),
            log,
            cancelled,
            promoted,
            fresh,
            limits: None,
        }
    }

    /// Demands that the unit of work keeps to its owner's limits: what a user asks for does, what goes on by itself
    /// does not.
    pub(crate) fn within(&mut self, limits: OwnerLimits) {
        self.limits = Some(limits);
    }

    /// Adds to the transaction.
    pub(crate) fn write(&mut self, add: impl FnOnce(Tx) -> Tx) {
        self.tx = add(std::mem::take(&mut self.tx));
    }

    /// Tells an event.
    pub(crate) fn tell(&mut self, event: NewEvent) {
        let log = self.log.clone();
        self.write(|tx| tx.append(&log, event));
    }

    fn tell_of(&mut self, kind: EventType, agent_id: Option<&str>, data: Value) {
        self.tell(NewEvent { kind, at: self.now, agent_id: agent_id.map(str::to_owned), data });
    }

    /// A run that is not stored yet, with its message; [`Draft::promote`] makes it active, or it is queued.
    pub(crate) fn add_run(&mut self, run: Run, entry: InboxEntry, first: bool) {
        self.tell_user_message(&entry);
        self.conversation.run_count += 1;
        let run_id = run.run_id.clone();
        if first {
            self.conversation.queued.insert(0, run_id);
        } else {
            self.conversation.queued.push(run_id);
        }
        self.fresh = Some((run, entry));
    }

    /// Where no run is active, makes the first of the queue so, and places its message. Stores a fresh run either way.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn promote(&mut self) -> AppResult<()> {
        let free = self.conversation.active_run.is_none();
        let next = self.conversation.queued.first().filter(|_| free).cloned();
        let fresh = self.fresh.take();
        if let Some(run_id) = next {
            self.conversation.queued.remove(0);
            let (mut run, entry, is_fresh) = match &fresh {
                Some((run, entry)) if run.run_id == run_id => (run.clone(), Some(entry.clone()), true),
                _ => {
                    let run = load_run(self.store, &self.conversation.conversation_id, &run_id).await?;
                    let key = keys::inbox(&run.conversation_id, run.message_id.as_str());
                    (run, self.store.get::<InboxEntry>(&key).await?, false)
                }
            };
            if let Some(entry) = entry {
                if !is_fresh {
                    let key = keys::inbox(&entry.conversation_id, entry.message_id.as_str());
                    self.write(|tx| tx.remove(key));
                }
                self.place(user_message(entry, self.now));
            }
            run.status = RunStatus::Running;
            run.due_at = self.in_secs(START_SECS);
            // What the runs before it used counts against the budget.
            run.core.rules.spent = self.conversation.usage;
            run.core.compact.clone_from(&self.conversation.crowded);
            self.conversation.active_run = Some(run_id);
            self.conversation.status = ConversationStatus::Running;
            self.write(|tx| tx.update(&mut run));
            self.promoted = Some(run);
            if is_fresh {
                return Ok(());
            }
        }
        if let Some((mut run, mut entry)) = fresh {
            run.status = RunStatus::Queued;
            let ahead = self.conversation.queued.len();
            let told = json!({"run_id": run.run_id, "message_id": run.message_id, "position": ahead});
            self.tell_of(EventType::RunQueued, None, told);
            self.write(|tx| tx.create(&mut run).create(&mut entry));
        }
        Ok(())
    }

    pub(crate) fn in_secs(&self, secs: i64) -> Timestamp {
        self.now.saturating_add(jiff::SignedDuration::from_secs(secs)).unwrap_or(self.now)
    }

    /// Applies an input to a run's rules and carries out what they say. The run is written by [`Draft::save`].
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn apply(&mut self, run: &mut Run, input: Input, extra: &Extra) -> AppResult<Next> {
        meter::count_vm(run, self.now);
        let transition = advance(&run.core, &run.run_id, input, self.now);
        run.core = transition.core;
        // Every effect is a record or an event; beside them stand the run and the conversation.
        run.core.usage.store_units += meter::units(transition.effects.len() + 2);
        for effect in transition.effects {
            self.carry_out(run, effect, extra).await?;
        }
        run.unkilled.append(&mut self.cancelled);
        if run.core.waiting_since.is_some() {
            run.status = RunStatus::Waiting;
        } else if run.status == RunStatus::Waiting {
            run.status = RunStatus::Running;
        }
        if run.core.outcome.is_some() && run.status != RunStatus::Finished {
            self.close(run);
        }
        if run.lane.is_none() && self.conversation.active_run.as_ref() == Some(&run.run_id) {
            self.conversation.status = match run.status {
                RunStatus::Waiting => ConversationStatus::Waiting,
                _ => ConversationStatus::Running,
            };
        }
        Ok(transition.next)
    }

    /// The run ended: the conversation counts it and is free for the next.
    fn close(&mut self, run: &mut Run) {
        run.status = RunStatus::Finished;
        run.outcome.clone_from(&run.core.outcome);
        run.finished_at = Some(self.now);
        let used = if run.lane.is_some() { run.core.usage.of_lane() } else { run.core.usage };
        self.conversation.usage.add(&used);
        self.conversation.crowded.extend(run.core.compact.iter().cloned());
        if self.conversation.active_run.as_ref() == Some(&run.run_id) {
            self.conversation.active_run = None;
            self.conversation.status = match run.outcome.as_ref().map(|outcome| outcome.kind) {
                Some(OutcomeKind::Cancelled) => ConversationStatus::Cancelled,
                Some(OutcomeKind::Failed) => ConversationStatus::Failed,
                _ => ConversationStatus::Idle,
            };
        }
        self.conversation.queued.retain(|queued| *queued != run.run_id);
    }

    async fn carry_out(&mut self, run: &Run, effect: Effect, extra: &Extra) -> AppResult<()> {
        match effect {
            Effect::Tell(mut event) => {
                if event.kind == EventType::RunFinished {
                    let mut all = run.core.usage;
                    all.add(&run.core.lane_usage);
                    event.data["usage"] = json!(all);
                }
                self.tell(event);
            }
            Effect::PlaceSteers(ids) => {
                for id in ids {
                    self.place_waiting(&id).await?;
                }
            }
            Effect::PlaceAnswer(answer) => {
                let (provider, opaque) = extra.opaque.clone().unzip();
                let opaque = opaque.unwrap_or_default().into_iter();
                let (opaque_after, opaque) = opaque.map(|block| (block.after, block.value)).unzip();
                let to_ref = |(tool_call_id, provider_id)| CallRef { tool_call_id, provider_id };
                self.place(Message {
                    calls: answer.calls.into_iter().map(to_ref).collect(),
                    note: answer.note,
                    provider,
                    opaque,
                    opaque_after,
                    ..self.message(
                        run,
                        answer.message_id,
                        Author::Agent { agent_id: answer.agent_id },
                        answer.text,
                        answer.end,
                    )
                });
            }
            Effect::PlanCalls(planned) => calls::plan(self, run, planned),
            Effect::PlaceResults { message_id, calls, note, .. } => {
                let text = calls::results(self.store, run, &calls, note).await?;
                self.place_of_system(run, message_id, &text);
            }
            Effect::PlaceNote { message_id, text } => self.place_of_system(run, message_id, &text),
            Effect::RejectCalls(rejected) => {
                for (id, why) in rejected {
                    calls::reject(self, run, &id, &why).await?;
                }
            }
            Effect::CancelCalls(ids) => {
                for id in ids {
                    calls::cancel(self, run, &id).await?;
                }
            }
            Effect::CloseMessage(open) => self.close_message(run, open).await?,
            Effect::StoreSummary { agent_id, summary } => {
                let up_to = extra.summary_up_to;
                let made =
                    compaction::summary(self.store, &self.conversation, &agent_id, summary, up_to).await?;
                self.conversation.crowded.remove(&agent_id);
                self.conversation.compacted.extend(made.map(|made| (agent_id, made)));
            }
            Effect::RecordStep { step, attempt, usage } => {
                let (model, request_hash) = extra.answered_by.clone().unwrap_or_default();
                let agent_id = run.core.last_speaker.clone().unwrap_or_default();
                let mut record = Step {
                    conversation_id: run.conversation_id.clone(),
                    run_id: run.run_id.clone(),
                    number: step,
                    agent_id,
                    model,
                    attempt,
                    request_hash,
                    message_id: pvm_domain::conversation::answer_message(&run.run_id, step),
                    usage,
                    answered_at: self.now,
                    version: 0,
                };
                self.write(|tx| tx.overwrite(&mut record));
            }
        }
        Ok(())
    }

    /// Writes a changed run.
    pub(crate) fn save(&mut self, run: &mut Run) {
        if run.status == RunStatus::Running || run.status == RunStatus::Waiting {
            // A promoted run keeps its short date until it begins.
            run.due_at = self.in_secs(QUIET_SECS);
        } else if !run.unkilled.is_empty() {
            run.due_at = self.in_secs(START_SECS);
        }
        self.write(|tx| tx.update(run));
    }

    /// Commits everything.
    ///
    /// # Errors
    /// `Conflict` where anything was changed by somebody else since it was read: read again and redo.
    pub(crate) async fn commit(mut self) -> Result<Done, StoreError> {
        if self.conversation != self.before {
            self.conversation.updated_at = self.now;
            let mut conversation = self.conversation.clone();
            self.write(|tx| tx.update(&mut conversation));
            self.conversation = conversation;
        }
        let tx = match &self.limits {
            Some(limits) => self.tx.within(limits),
            None => self.tx,
        };
        self.store.commit(tx).await?;
        Ok(Done { conversation: self.conversation, promoted: self.promoted })
    }
}

/// What a committed unit of work leaves to do.
#[derive(Debug)]
pub(crate) struct Done {
    /// The conversation as stored.
    pub(crate) conversation: Conversation,
    /// The run whose execution is to be started.
    pub(crate) promoted: Option<Run>,
}
